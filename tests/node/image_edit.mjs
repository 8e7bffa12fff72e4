// Change an image as OpenAI's guide for Node does: node image_edit.mjs BASE_URL KEY MODEL IMAGE [MASK]
// With a mask the model edits, twice; without one it makes a variation.
import { createReadStream } from "node:fs";
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey, model, image, mask] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const file = (path) => toFile(createReadStream(path), null, { type: "image/png" });
const shared = { model, image: await file(image), response_format: "b64_json" };
try {
  const answer = mask
    ? await client.images.edit({ ...shared, mask: await file(mask), prompt: "a red apple", n: 2, seed: 0x123456 })
    : await client.images.createVariation({ ...shared, size: "512x512" });
  console.log(JSON.stringify(answer.data.map((item) => item.b64_json)));
} catch (error) {
  if (!(error instanceof OpenAI.APIError)) throw error;
  console.log(JSON.stringify({ name: error.constructor.name, status: error.status, param: error.param, code: error.code }));
}
