<?php
// Asks for a picture, waits for it and saves it. Needs the curl extension; MINITOOLAI_URL and MINITOOLAI_KEY.

function ask(string $path, array $body, array $headers = []): array {
    $curl = curl_init(getenv("MINITOOLAI_URL") . $path);
    curl_setopt_array($curl, [
        CURLOPT_POST => true,
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HTTPHEADER => ["Content-Type: application/json", ...$headers],
        CURLOPT_POSTFIELDS => json_encode($body),
        CURLOPT_TIMEOUT => 30,
    ]);
    $answer = json_decode((string) curl_exec($curl), true);
    if (!is_array($answer)) {
        fwrite(STDERR, "no answer: " . curl_error($curl) . "\n");
        exit(1);
    }
    return $answer;
}

$job = ask(
    "/api/texttoimage/",
    ["model" => "realvision", "prompt" => "a red apple", "width" => 512, "height" => 512],
    ["Authorization: Bearer " . getenv("MINITOOLAI_KEY")],
);
if ($job["status"] === "error") {
    fwrite(STDERR, $job["message"] . "\n");
    exit(1);
}
do {
    usleep(200000);
    // No key from here on: the signature is enough.
    $state = ask("/api/texttoimage/jobs/", ["jobid" => $job["jobid"], "signature" => $job["signature"]]);
} while (in_array($state["status"], ["queued", "processing"]));
if ($state["status"] !== "success") {
    fwrite(STDERR, $state["message"] . "\n");
    exit(1);
}
file_put_contents("apple.png", file_get_contents($state["image_url"]));
echo "apple.png, drawn by {$state['model']} with seed {$state['seed']}\n";
