import java.io.ByteArrayInputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.pytorch.serve.archive.model.ModelConfig;
import org.yaml.snakeyaml.Yaml;

/** Reads documents from standard input as TorchServe does; says of each what its workers would be, or why none would. */
public class Configurations {
    public static void main(String[] arguments) throws Exception {
        DataInputStream in = new DataInputStream(System.in);
        DataOutputStream out = new DataOutputStream(System.out);
        System.setOut(System.err); // for the words of log4j
        for (int length = in.readInt(); length >= 0; length = in.readInt()) {
            byte[] document = in.readNBytes(length);
            String said;
            try {
                InputStreamReader reader =
                        new InputStreamReader(new ByteArrayInputStream(document), StandardCharsets.UTF_8);
                Map<String, Object> read = new Yaml().load(reader);
                said = told(ModelConfig.build(read));
            } catch (RuntimeException | StackOverflowError broken) {
                said = "! " + broken.getClass().getSimpleName();
            }
            out.writeUTF(said);
        }
        out.flush();
    }

    private static String told(ModelConfig config) {
        boolean launched =
                config.getParallelLevel() > 0
                        && config.getParallelType() != ModelConfig.ParallelType.NONE
                        && config.getParallelType() != ModelConfig.ParallelType.CUSTOM;
        return config.getUseVenv() + " " + launched + " " + config.getMinWorkers() + " " + config.getMaxWorkers();
    }
}
