// The request that the studio sends, as a program in four languages.

const KEY = "sk-…";
const PATHS = { chat: "/v1/chat/completions", image: "/api/texttoimage/", speech: "/v1/audio/speech" };

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

// A form with a file, in each language.
const forms = {
  path: (body) => `/v1/audio/${body.task === "translate" ? "translations" : "transcriptions"}`,
  fields: ({ model, language }) => Object.entries(language ? { model, language } : { model }),
  curl(origin, body) {
    const fields = this.fields(body).map(([name, value]) => ` \\\n  -F ${name}='${shell(value)}'`);
    return `curl -sS ${origin}${this.path(body)} \\\n  -H 'Authorization: Bearer ${KEY}' \\\n  -F file='@${shell(body.file)}'${fields.join("")}`;
  },
  python(origin, body) {
    return `import requests

with open(${JSON.stringify(body.file)}, "rb") as file:
    answer = requests.post(
        "${origin}${this.path(body)}",
        headers={"Authorization": "Bearer ${KEY}"},
        data=${python(Object.fromEntries(this.fields(body)), "        ")},
        files={"file": file},
    )
answer.raise_for_status()
print(answer.json()["text"])`;
  },
  javascript(origin, body) {
    const fields = this.fields(body).map(([name, value]) => `form.append("${name}", ${JSON.stringify(value)});\n`);
    return `import { openAsBlob } from "node:fs";

const form = new FormData();
form.append("file", await openAsBlob(${JSON.stringify(body.file)}), ${JSON.stringify(body.file)});
${fields.join("")}const answer = await fetch("${origin}${this.path(body)}", {
  method: "POST",
  headers: { Authorization: "Bearer ${KEY}" },
  body: form,
});
if (!answer.ok) throw new Error(await answer.text());
console.log((await answer.json()).text);`;
  },
  php(origin, body) {
    const quoted = (text) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
    const fields = this.fields(body).map(([name, value]) => `        "${name}" => ${quoted(value)},\n`);
    return `<?php
$curl = curl_init("${origin}${this.path(body)}");
curl_setopt_array($curl, [
    CURLOPT_HTTPHEADER => ["Authorization: Bearer ${KEY}"],
    CURLOPT_POSTFIELDS => [
        "file" => new CURLFile(${quoted(body.file)}),
${fields.join("")}    ],
]);
curl_exec($curl);`;
  },
};

const file = (kind, body) => (kind === "speech" ? `speech.${body.response_format}` : "");

export const programs = {
  curl(kind, origin, body) {
    if (kind === "transcription") return forms.curl(origin, body);
    const output = kind === "speech" ? ` -o ${file(kind, body)}` : "";
    return `curl -sS${kind === "chat" ? "N" : ""} ${origin}${PATHS[kind]}${output} \\
  -H 'Authorization: Bearer ${KEY}' \\
  -H 'Content-Type: application/json' \\
  -d '${shell(json(body))}'`;
  },
  python(kind, origin, body) {
    if (kind === "transcription") return forms.python(origin, body);
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
    if (kind === "transcription") return forms.javascript(origin, body);
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
    if (kind === "transcription") return forms.php(origin, body);
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
