<?php
// Prints an answer as it is written. Needs the curl extension; MINITOOLAI_URL and MINITOOLAI_KEY in the environment.

$rest = "";
$print = function ($curl, string $bytes) use (&$rest): int {
    $lines = explode("\n", $rest . $bytes);
    $rest = array_pop($lines);  // the last line may go on in the next bytes
    foreach ($lines as $line) {
        if (!str_starts_with($line, "data: ") || $line === "data: [DONE]") {
            continue;  // an empty line, a comment, or the end
        }
        $event = json_decode(substr($line, 6), true);
        if (isset($event["error"])) {
            fwrite(STDERR, $event["error"]["message"] . "\n");
            exit(1);
        }
        foreach ($event["choices"] as $choice) {
            echo $choice["delta"]["content"] ?? "";
        }
        if ($event["usage"] !== null) {
            echo "\n ", $event["usage"]["total_tokens"], " tokens\n";
        }
        flush();
    }
    return strlen($bytes);
};

$curl = curl_init(getenv("MINITOOLAI_URL") . "/api/chat-completions/");
curl_setopt_array($curl, [
    CURLOPT_HTTPHEADER => ["Authorization: Bearer " . getenv("MINITOOLAI_KEY"), "Content-Type: application/json"],
    CURLOPT_POSTFIELDS => json_encode([
        "model" => "gpt-4o-mini",
        "messages" => [
            ["role" => "developer", "content" => "Answer in one short sentence."],
            ["role" => "user", "content" => "Which planet has the most moons?"],
        ],
        "temperature" => 0.2,
        "max_completion_tokens" => 60,
    ]),
    CURLOPT_WRITEFUNCTION => $print,
]);
if (curl_exec($curl) === false) {
    fwrite(STDERR, curl_error($curl) . "\n");
    exit(1);
}
if (curl_getinfo($curl, CURLINFO_RESPONSE_CODE) !== 200) {
    fwrite(STDERR, json_decode($rest, true)["error"]["message"] . "\n");
    exit(1);
}
