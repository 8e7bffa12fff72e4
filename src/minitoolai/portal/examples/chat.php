<?php
$rest = "";
$read = function ($curl, $bytes) use (&$rest) {
    $lines = explode("\n", $rest . $bytes);
    $rest = array_pop($lines);
    foreach ($lines as $line) {
        if (!str_starts_with($line, "data: {")) continue;
        $event = json_decode(substr($line, 6), true);
        if (isset($event["error"])) exit($event["error"]["message"]);
        echo $event["choices"][0]["delta"]["content"] ?? "";
        flush();
    }
    return strlen($bytes);
};
$curl = curl_init("https://ai.example.com/v1/chat/completions");
curl_setopt_array($curl, [
    CURLOPT_HTTPHEADER => ["Authorization: Bearer sk-…", "Content-Type: application/json"],
    CURLOPT_POSTFIELDS => json_encode([
        "model" => "gpt-4o-mini",
        "messages" => [
            ["role" => "developer", "content" => "Answer in one short sentence."],
            ["role" => "user", "content" => "Which planet has the most moons?"],
        ],
        "temperature" => 0.7,
        "max_completion_tokens" => 200,
        "stream" => true,
    ]),
    CURLOPT_WRITEFUNCTION => $read,
]);
curl_exec($curl);
if (curl_getinfo($curl, CURLINFO_RESPONSE_CODE) != 200) {
    echo json_decode($rest, true)["error"]["message"] ?? curl_error($curl);
}
