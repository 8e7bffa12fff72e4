<?php
// Receives webhooks and believes only those that are signed: WEBHOOK_SECRET=whsec_… php -S 127.0.0.1:8080 webhook.php

$body = file_get_contents("php://input");
$id = $_SERVER["HTTP_WEBHOOK_ID"] ?? "";
$sent = $_SERVER["HTTP_WEBHOOK_TIMESTAMP"] ?? "";
$secret = base64_decode(substr((string) getenv("WEBHOOK_SECRET"), strlen("whsec_")));
$right = "v1," . base64_encode(hash_hmac("sha256", "$id.$sent.$body", $secret, true));

$genuine = ctype_digit($sent) && abs(time() - (int) $sent) < 300
    && hash_equals($right, $_SERVER["HTTP_WEBHOOK_SIGNATURE"] ?? "");
if (!$genuine) {
    http_response_code(401);
    exit;
}
$event = json_decode($body, true);
// The same event may come twice: $event["id"] tells.
error_log("{$event['type']} {$event['data']['jobid']} {$event['data']['image_url']}");
http_response_code(204);
