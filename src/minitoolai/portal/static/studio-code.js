// The request that the studio sends, as a program in four languages.

const KEY = "sk-…";
const PATHS = { chat: "/api/chat-completions/", image: "/api/texttoimage/", speech: "/api/texttospeech/" };

// A picture's bytes would bury the program: they are left out where they stand in the request.
function json(body) {
  const short = (_, value) => (typeof value === "string" && value.startsWith("data:image/") ? `${value.split(",")[0]},…` : value);
  return JSON.stringify(body, short, 2);
}

const shell = (text) => text.replaceAll("'", "'\\''");

function python(value, indent = "") {
  const deeper = `${indent}    `;
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[\n${value.map((item) => `${deeper}${python(item, deeper)},\n`).join("")}${indent}]`;
  if (typeof value === "object") {
    const lines = Object.entries(value).map(([name, item]) => `${deeper}${JSON.stringify(name)}: ${python(item, deeper)},\n`);
    return `{\n${lines.join("")}${indent}}`;
  }
  return JSON.stringify(value);
}

const file = (kind, body) => (kind === "speech" ? `speech.${body.response_format}` : "");

export const programs = {
  curl(kind, origin, body) {
    const output = kind === "speech" ? ` -o ${file(kind, body)}` : "";
    return `curl -sS${kind === "chat" ? "N" : ""} ${origin}${PATHS[kind]}${output} \\
  -H 'Authorization: Bearer ${KEY}' \\
  -H 'Content-Type: application/json' \\
  -d '${shell(json(body))}'`;
  },
  python(kind, origin, body) {
    const head = `import requests

answer = requests.post(
    "${origin}${PATHS[kind]}",
    headers={"Authorization": "Bearer ${KEY}"},
    json=${python(JSON.parse(json(body)), "    ")},
    stream=${kind === "image" ? "False" : "True"},
)
answer.raise_for_status()
`;
    if (kind === "chat") return `${head}for line in answer.iter_lines():\n    print(line.decode())`;
    if (kind === "image") return `${head}print(answer.json())  # ask /api/texttoimage/jobs/ with jobid and signature`;
    return `${head}with open("${file(kind, body)}", "wb") as file:\n    for part in answer.iter_content(65536):\n        file.write(part)`;
  },
  javascript(kind, origin, body) {
    const head = `${kind === "speech" ? 'import { writeFile } from "node:fs/promises";\n\n' : ""}const answer = await fetch("${origin}${PATHS[kind]}", {
  method: "POST",
  headers: { Authorization: "Bearer ${KEY}", "Content-Type": "application/json" },
  body: JSON.stringify(${json(body).replaceAll("\n", "\n  ")}),
});
if (!answer.ok) throw new Error(await answer.text());
`;
    if (kind === "chat") return `${head}const decoder = new TextDecoder();\nfor await (const part of answer.body) process.stdout.write(decoder.decode(part, { stream: true }));`;
    if (kind === "image") return `${head}console.log(await answer.json()); // ask /api/texttoimage/jobs/ with jobid and signature`;
    return `${head}await writeFile("${file(kind, body)}", Buffer.from(await answer.arrayBuffer()));`;
  },
  php(kind, origin, body) {
    const saves = kind === "speech" ? `    CURLOPT_FILE => fopen("${file(kind, body)}", "wb"),\n` : "";
    return `<?php
$body = <<<'JSON'
${json(body)}
JSON;
$curl = curl_init("${origin}${PATHS[kind]}");
curl_setopt_array($curl, [
    CURLOPT_HTTPHEADER => ["Authorization: Bearer ${KEY}", "Content-Type: application/json"],
    CURLOPT_POSTFIELDS => $body,
${saves}]);
curl_exec($curl);`;
  },
};
