import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import org.pytorch.serve.archive.model.ModelArchive;

/** Reads names of archives in a model store from standard input; says what TorchServe's own ModelArchive makes of each. */
public class Unpacker {
    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String name = in.readLine(); name != null; name = in.readLine()) {
            String said;
            try {
                ModelArchive archive = ModelArchive.downloadModel(Collections.emptyList(), arguments[0], name);
                archive.validate();
                said = "loads\t" + archive.getModelDir().getAbsolutePath();
            } catch (Throwable refused) {
                said = "refuses\t" + refused.getClass().getSimpleName();
            }
            System.out.println("@" + name + "\t" + said);
        }
    }
}
