import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import java.io.BufferedReader;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.Random;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** RabbitMQ's own Java client over TLS, with a client's certificate. */
public class WithJavaTls {
    private static final Path FOLDER = Path.of(System.getenv("CERTIFICATES"));
    private static final char[] PASSWORD = "carrot".toCharArray();
    private static int failed = 0;
    private static int port = 0;

    interface Check {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        Path data = Files.createTempDirectory("interop");
        Process broker = new ProcessBuilder(System.getenv("LEVERET"), "--data-dir", data.toString(), "--bind",
                "127.0.0.1", "--amqp-port", "none", "--http-port", "none", "--metrics-port", "none", "--amqps-port", "0",
                "--tls-certfile", FOLDER + "/server.pem", "--tls-keyfile", FOLDER + "/server.key", "--tls-cacertfile",
                FOLDER + "/ca.pem", "--tls-verify", "verify_peer", "--tls-fail-if-no-peer-cert", "true")
                .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        try {
            BufferedReader log = new BufferedReader(new InputStreamReader(broker.getInputStream()));
            Pattern listener = Pattern.compile("started TLS \\(SSL\\) listener on 127\\.0\\.0\\.1:(\\d+)");
            for (String line = log.readLine(); port == 0 && line != null; line = log.readLine()) {
                Matcher found = listener.matcher(line);
                port = found.find() ? Integer.parseInt(found.group(1)) : 0;
            }
            Thread rest = new Thread(() -> log.lines().forEach(line -> {}));
            rest.setDaemon(true);
            rest.start();
            for (String version : new String[] {"TLSv1.3", "TLSv1.2"}) {
                run("messages of all sizes come back over " + version, () -> messages(version));
            }
            run("a client without a certificate is turned away", () -> {
                try (Connection connection = connect("TLSv1.3", false)) {
                    throw new AssertionError("let in");
                } catch (java.io.IOException expected) {
                    // It is told in one way or another.
                }
            });
        } finally {
            broker.destroyForcibly().waitFor();
        }
        System.exit(failed == 0 ? 0 : 1);
    }

    private static void messages(String version) throws Exception {
        try (Connection connection = connect(version, true)) {
            Channel channel = connection.createChannel();
            channel.queueDeclare("q", false, false, false, null);
            channel.confirmSelect();
            for (int size : new int[] {0, 1, 20_000, 3_000_000}) {
                byte[] body = new byte[size];
                new Random(size).nextBytes(body);
                channel.basicPublish("", "q", null, body);
                channel.waitForConfirmsOrDie(30_000);
                if (!Arrays.equals(channel.basicGet("q", true).getBody(), body)) {
                    throw new AssertionError(size + " octets came back changed");
                }
            }
        }
    }

    private static Connection connect(String version, boolean shows) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (InputStream file = Files.newInputStream(FOLDER.resolve("ca.pem"))) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        KeyStore own = KeyStore.getInstance("PKCS12");
        try (InputStream file = Files.newInputStream(FOLDER.resolve("client.p12"))) {
            own.load(file, PASSWORD);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, PASSWORD);
        SSLContext context = SSLContext.getInstance(version);
        context.init(shows ? keys.getKeyManagers() : new KeyManager[0], trust.getTrustManagers(), null);
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost("localhost");
        factory.setPort(port);
        factory.useSslProtocol(context);
        return factory.newConnection();
    }

    private static void run(String name, Check check) {
        try {
            check.run();
            System.out.println("passed Java over TLS: " + name);
        } catch (Throwable error) {
            failed += 1;
            error.printStackTrace();
            System.out.println("FAILED Java over TLS: " + name + ": " + error);
        }
    }
}
