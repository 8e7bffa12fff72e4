<?php
$curl = curl_init("https://ai.example.com/v1/audio/speech");
curl_setopt_array($curl, [
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_HTTPHEADER => ["Authorization: Bearer sk-…", "Content-Type: application/json"],
    CURLOPT_POSTFIELDS => json_encode([
        "model" => "tts-1",
        "input" => "Good morning. The coffee is ready.",
        "voice" => "heart",
        "response_format" => "mp3",
        "speed" => 1.0,
    ]),
]);
$answer = curl_exec($curl);
if (curl_getinfo($curl, CURLINFO_RESPONSE_CODE) != 200) {
    exit(json_decode($answer, true)["error"]["message"] ?? curl_error($curl));
}
file_put_contents("morning.mp3", $answer);
