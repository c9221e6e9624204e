import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/** Reads cases from standard input: flags, an expression, texts. Says -1 for what Pattern refuses, else which match. */
public class Expressions {
    public static void main(String[] arguments) throws Exception {
        DataInputStream in = new DataInputStream(System.in);
        DataOutputStream out = new DataOutputStream(System.out);
        for (int flags = in.readInt(); flags >= 0; flags = in.readInt()) {
            String expression = text(in);
            String[] texts = new String[in.readInt()];
            for (int i = 0; i < texts.length; i++) {
                texts[i] = text(in);
            }
            int matching = 0;
            try {
                Pattern pattern = Pattern.compile(expression, flags);
                for (int i = 0; i < texts.length; i++) {
                    matching |= pattern.matcher(texts[i]).matches() ? 1 << i : 0;
                }
            } catch (PatternSyntaxException broken) {
                matching = -1;
            }
            out.writeInt(matching);
        }
        out.flush();
    }

    private static String text(DataInputStream in) throws Exception {
        char[] read = new char[in.readInt()];
        for (int i = 0; i < read.length; i++) {
            read[i] = in.readChar();
        }
        return new String(read);
    }
}
