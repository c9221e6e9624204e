import java.io.ByteArrayInputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.util.Properties;

/** Reads files from standard input, each as its length and its bytes; says what java.util.Properties makes of each. */
public class Reader {
    public static void main(String[] arguments) throws Exception {
        DataInputStream in = new DataInputStream(System.in);
        DataOutputStream out = new DataOutputStream(System.out);
        for (int length = in.readInt(); length >= 0; length = in.readInt()) {
            byte[] data = new byte[length];
            in.readFully(data);
            Properties read = new Properties();
            try {
                read.load(new ByteArrayInputStream(data));
                out.writeInt(2 * read.size());
                for (String key : read.stringPropertyNames()) {
                    for (String text : new String[] {key, read.getProperty(key)}) {
                        out.writeInt(text.length());
                        out.writeChars(text);
                    }
                }
            } catch (IllegalArgumentException malformed) {
                out.writeInt(-1);
            }
        }
        out.flush();
    }
}
