// Speak to a file as OpenAI's guide for Node does: node speech.mjs BASE_URL KEY FORMAT FILE
import { createWriteStream } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import OpenAI from "openai";

const [baseURL, apiKey, format, file] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const answer = await client.audio.speech.create({
  model: "tts-1",
  voice: "alloy",
  input: process.env.TEXT,
  response_format: format,
});
await pipeline(Readable.fromWeb(answer.body), createWriteStream(file));
