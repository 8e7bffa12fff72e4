<?php
// PHP and nothing but its curl: php client.php ABILITY...
const QUESTION = [["role" => "user", "content" => "Which planet has the most moons?"]];
const CITY = ["type" => "object", "properties" => ["city" => ["type" => "string"]], "required" => ["city"]];
const WEATHER = ["type" => "function", "function" => ["name" => "get_weather", "parameters" => CITY]];

/** One request: [status, body, headers]. `$read` gets the pieces of a stream and returns whether to go on. */
function ask(array $fields, string $key = "", ?callable $read = null, string $path = "/chat/completions"): array
{
    $headers = [];
    $curl = curl_init(getenv("BASE_URL") . $path);
    curl_setopt_array($curl, [
        CURLOPT_POSTFIELDS => json_encode($fields + ["model" => "quick", "messages" => QUESTION]),
        CURLOPT_HTTPHEADER => ["Content-Type: application/json", "Authorization: Bearer " . ($key ?: getenv("KEY"))],
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 30,
        CURLOPT_HEADERFUNCTION => function ($_, $line) use (&$headers) {
            if (str_contains($line, ":")) {
                [$name, $value] = explode(":", $line, 2);
                $headers[strtolower($name)] = trim($value);
            }
            return strlen($line);
        },
    ]);
    if ($read) {
        curl_setopt($curl, CURLOPT_WRITEFUNCTION, fn($_, $data) => $read($data) ? strlen($data) : 0);
    }
    $body = curl_exec($curl);
    return [curl_getinfo($curl, CURLINFO_RESPONSE_CODE), $read ? null : json_decode($body, true), $headers];
}

/** Reads events from pieces of a stream; `$on` gets each and returns whether to go on. */
function events(callable $on): callable
{
    $rest = "";
    return function (string $data) use (&$rest, $on): bool {
        $rest .= $data;
        while (($end = strpos($rest, "\n\n")) !== false) {
            $event = substr($rest, 0, $end);
            $rest = substr($rest, $end + 2);
            if (str_starts_with($event, "data: {") && !$on(json_decode(substr($event, 6), true))) {
                return false;
            }
        }
        return true;
    };
}

function text(array $answer): string
{
    return $answer[1]["choices"][0]["message"]["content"];
}

$abilities = [
    "answer" => function () {
        $answer = ask([]);
        return ["text" => text($answer), "tokens" => $answer[1]["usage"]["completion_tokens"]];
    },
    "stream" => function () {
        $pieces = [];
        $tokens = 0;
        $read = events(function ($chunk) use (&$pieces, &$tokens) {
            if (($chunk["choices"][0]["delta"]["content"] ?? "") !== "") {
                $pieces[] = $chunk["choices"][0]["delta"]["content"];
            }
            $tokens = $chunk["usage"]["completion_tokens"] ?? $tokens;
            return true;
        });
        ask(["stream" => true, "stream_options" => ["include_usage" => true]], read: $read);
        return ["text" => implode("", $pieces), "pieces" => count($pieces), "tokens" => $tokens];
    },
    "tools" => function () {
        $message = ask(["tools" => [WEATHER], "tool_choice" => "required"])[1]["choices"][0]["message"];
        $call = $message["tool_calls"][0];
        $answered = ["role" => "tool", "tool_call_id" => $call["id"], "content" => "18 °C"];
        $final = ask(["messages" => [...QUESTION, $message, $answered], "tools" => [WEATHER]]);
        $arguments = json_decode($call["function"]["arguments"], true);
        return ["name" => $call["function"]["name"], "arguments" => $arguments, "text" => text($final)];
    },
    "schema" => function () {
        $schema = ["type" => "object", "properties" => ["planet" => ["type" => "string"]], "required" => ["planet"]];
        $form = ["type" => "json_schema", "json_schema" => ["name" => "moons", "schema" => $schema, "strict" => true]];
        return json_decode(text(ask(["response_format" => $form])), true);
    },
    "errors" => function () {
        $cases = [
            "401" => ask([], key: "sk-mt-wrong"),
            "402" => ask([], key: getenv("POOR_KEY")),
            "404" => ask(["model" => "quik"]),
            "400" => ask(["max_tokens" => 1000000]),
            "429" => ask(["model" => "limited"]),
        ];
        return array_map(fn($case) => "{$case[0]} {$case[1]["error"]["code"]}", $cases);
    },
    "retry" => function () {
        $began = microtime(true);
        $busy = ["model" => "busy", "messages" => [["role" => "user", "content" => "busy " . getenv("NONCE")]]];
        while (($answer = ask($busy))[0] === 429) {
            sleep((int) $answer[2]["retry-after"]);
        }
        return ["text" => text($answer), "waited_s" => microtime(true) - $began];
    },
    "headers" => function () {
        $answer = ask([]);
        return ["generation" => $answer[2]["x-generation-id"], "text" => text($answer)];
    },
    "cancel" => function () {
        $pieces = 0;
        ask(["model" => "endless", "stream" => true], read: events(function () use (&$pieces) {
            return ++$pieces < 4;
        }));
        return ["pieces" => $pieces];
    },
];

foreach (array_slice($argv, 1) as $name) {
    try {
        $result = $abilities[$name]();
    } catch (Throwable $error) {
        fwrite(STDERR, $error . "\n");
        $result = ["failed" => $error->getMessage()];
    }
    echo json_encode([$name => $result], JSON_UNESCAPED_UNICODE), "\n";
}
