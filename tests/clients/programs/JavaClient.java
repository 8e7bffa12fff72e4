import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.List;

/** Java's own HTTP client with its defaults, which ask for HTTP/2 by `Upgrade: h2c`: java JavaClient.java BASE_URL KEY. */
class JavaClient {
    static final String HELLO = "{\"model\": \"quick\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]";

    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest.Builder ask = HttpRequest.newBuilder(URI.create(given[0] + "/chat/completions"))
            .header("Content-Type", "application/json")
            .header("Authorization", "Bearer " + given[1]);
        // With a length, in chunks of a few bytes (as Spring's RestClient sends), after `100 Continue`, and as a stream.
        print("length", client.send(ask.POST(BodyPublishers.ofString(HELLO + "}")).build(), BodyHandlers.ofString()));
        byte[] bytes = (HELLO + "}").getBytes(StandardCharsets.UTF_8);
        List<byte[]> pieces = List.of(
            java.util.Arrays.copyOfRange(bytes, 0, 9),
            java.util.Arrays.copyOfRange(bytes, 9, 30),
            java.util.Arrays.copyOfRange(bytes, 30, bytes.length)
        );
        print("chunked", client.send(ask.POST(BodyPublishers.ofByteArrays(pieces)).build(), BodyHandlers.ofString()));
        HttpRequest expecting = ask.copy().expectContinue(true).POST(BodyPublishers.ofByteArray(bytes)).build();
        print("expect", client.send(expecting, BodyHandlers.ofString()));
        String streamed = HELLO + ", \"stream\": true}";
        print("stream", client.send(ask.POST(BodyPublishers.ofString(streamed)).build(), BodyHandlers.ofString()));
        HttpRequest models = HttpRequest.newBuilder(URI.create(given[0] + "/models"))
            .header("Authorization", "Bearer " + given[1]).build();
        print("models", client.send(models, BodyHandlers.ofString()));
    }

    static void print(String name, HttpResponse<String> answer) {
        boolean isWhole = answer.body().contains("token-15") || answer.body().contains("\"quick\"");
        System.out.println(name + " " + answer.statusCode() + " " + answer.version() + " " + isWhole);
    }
}
