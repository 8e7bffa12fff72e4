// Anthropic's Node package: node anthropic.mjs ABILITY...
import Anthropic from "@anthropic-ai/sdk";
import { BASE_URL, BUSY, CITY, KEY, PLANET, QUESTION, main, refusals } from "./speaking.mjs";

const baseURL = BASE_URL.replace(/\/v1$/, "");
const client = new Anthropic({ baseURL, apiKey: KEY, timeout: 30_000 });
const asked = { model: "quick", max_tokens: 100, messages: QUESTION };
const tools = [{ name: "get_weather", description: "The weather of a city", input_schema: CITY }];
const textOf = (message) => message.content.map((block) => block.text ?? "").join("");

await main({
  async answer() {
    const made = await client.messages.create(asked);
    return { text: textOf(made), tokens: made.usage.output_tokens };
  },
  async stream() {
    const pieces = [];
    const stream = client.messages.stream(asked).on("text", (text) => pieces.push(text));
    const final = await stream.finalMessage();
    return { text: pieces.join(""), pieces: pieces.length, tokens: final.usage.output_tokens };
  },
  async tools() {
    const choice = { ...asked, tools, tool_choice: { type: "any" } };
    const made = await client.messages.stream(choice).finalMessage();
    const call = made.content.find((block) => block.type === "tool_use");
    const result = { type: "tool_result", tool_use_id: call.id, content: [{ type: "text", text: "18 °C" }] };
    const turn = [{ role: "assistant", content: made.content }, { role: "user", content: [result] }];
    const final = await client.messages.create({ ...asked, tools, messages: [...QUESTION, ...turn] });
    return { name: call.name, arguments: call.input, text: textOf(final) };
  },
  async schema() {
    const output_config = { format: { type: "json_schema", schema: PLANET } };
    return JSON.parse(textOf(await client.messages.create({ ...asked, output_config })));
  },
  async errors() {
    // A limit above the model's is lowered here, so the wrong field is another one.
    const ask = ({ key, model, limit }) =>
      new Anthropic({ baseURL, apiKey: key, maxRetries: 0 }).messages.create({
        ...asked,
        model,
        ...(limit && { temperature: 2 }),
      });
    return refusals(ask, (error) => error.constructor.name);
  },
  async retry() {
    const began = performance.now();
    const made = await client.messages.create({ ...asked, model: "busy", messages: BUSY });
    return { text: textOf(made), waited_s: (performance.now() - began) / 1000 };
  },
  async headers() {
    const { data, response } = await client.messages.create(asked).withResponse();
    return { generation: response.headers.get("x-generation-id"), text: textOf(data) };
  },
  async cancel() {
    const stream = await client.messages.create({ ...asked, model: "endless", max_tokens: 4000, stream: true });
    let pieces = 0;
    for await (const event of stream) {
      if (event.type === "content_block_delta" && ++pieces === 4) stream.controller.abort();
    }
    return { pieces };
  },
  async models() {
    const found = [];
    for await (const model of client.models.list({ limit: 2 })) found.push(model.id);
    return { found: found.includes("quick") };
  },
});
