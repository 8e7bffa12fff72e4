// Transcribe a file as OpenAI's guide for Node does: node transcribe.mjs BASE_URL KEY MODEL FORMAT FILE
import { createReadStream } from "node:fs";
import OpenAI from "openai";

const [baseURL, apiKey, model, format, file] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
if (format === "stream") {
  const events = await client.audio.transcriptions.create({ model, file: createReadStream(file), stream: true });
  for await (const event of events) console.log(JSON.stringify(event));
} else {
  const answer = await client.audio.transcriptions.create({ model, file: createReadStream(file), response_format: format });
  console.log(typeof answer === "string" ? answer : JSON.stringify(answer));
}
