<?php
function post($path, $body, $headers = []) {
    $curl = curl_init("https://ai.example.com" . $path);
    curl_setopt_array($curl, [
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HTTPHEADER => ["Content-Type: application/json", ...$headers],
        CURLOPT_POSTFIELDS => json_encode($body),
    ]);
    return json_decode(curl_exec($curl), true);
}
$job = post("/api/texttoimage/", [
    "model" => "dreamshaper",
    "prompt" => "a red apple on a wooden table",
    "negativePrompt" => "blurry",
    "scheduler" => "DPM++ SDE",
    "steps" => 4,
    "cfgScale" => 2.0,
    "width" => 768,
    "height" => 512,
    "seed" => 7,
], ["Authorization: Bearer sk-…"]);
if ($job["status"] == "error") exit($job["message"]);
do {
    usleep(500000);
    $state = post("/api/texttoimage/jobs/", ["jobid" => $job["jobid"], "signature" => $job["signature"]]);
} while (!in_array($state["status"], ["success", "error"]));
if ($state["status"] == "error") exit($state["message"]);
file_put_contents("picture.png", file_get_contents($state["image_url"]));
echo $state["image_url"], "\n";
