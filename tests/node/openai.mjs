// OpenAI's Node package: node openai.mjs ABILITY...
import OpenAI from "openai";
import { BASE_URL, BUSY, CITY, KEY, PLANET, QUESTION, TEXTS, WEATHER, main, refusals } from "./speaking.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: KEY, timeout: 30_000 });
const chats = client.chat.completions;

await main({
  async answer() {
    const made = await chats.create({ model: "quick", messages: QUESTION });
    return { text: made.choices[0].message.content, tokens: made.usage.completion_tokens };
  },
  async stream() {
    const pieces = [];
    let tokens = 0;
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await chats.create({ model: "quick", messages: QUESTION, ...options })) {
      if (chunk.choices[0]?.delta?.content) pieces.push(chunk.choices[0].delta.content);
      tokens = chunk.usage?.completion_tokens ?? tokens;
    }
    return { text: pieces.join(""), pieces: pieces.length, tokens };
  },
  async tools() {
    let called;
    const runner = chats.runTools({
      model: "quick",
      messages: QUESTION,
      tools: [
        {
          type: "function",
          function: { ...WEATHER.function, parse: JSON.parse, function: (given) => ((called = given), "18 °C") },
        },
      ],
    });
    const text = await runner.finalContent();
    return { name: "get_weather", arguments: called, text };
  },
  async schema() {
    const json_schema = { name: "moons", schema: PLANET, strict: true };
    const response_format = { type: "json_schema", json_schema };
    const made = await chats.create({ model: "quick", messages: QUESTION, response_format });
    return JSON.parse(made.choices[0].message.content);
  },
  async errors() {
    const ask = ({ key, model, limit }) =>
      new OpenAI({ baseURL: BASE_URL, apiKey: key, maxRetries: 0 }).chat.completions.create({
        model,
        messages: QUESTION,
        ...(limit && { max_tokens: limit }),
      });
    return refusals(ask, (error) => error.constructor.name);
  },
  async retry() {
    const began = performance.now();
    const made = await chats.create({ model: "busy", messages: BUSY });
    return { text: made.choices[0].message.content, waited_s: (performance.now() - began) / 1000 };
  },
  async headers() {
    const { data, response } = await chats.create({ model: "quick", messages: QUESTION }).withResponse();
    return { generation: response.headers.get("x-generation-id"), text: data.choices[0].message.content };
  },
  async cancel() {
    const stream = await chats.create({ model: "endless", messages: QUESTION, stream: true });
    let pieces = 0;
    for await (const _ of stream) if (++pieces === 4) stream.controller.abort();
    return { pieces };
  },
  async responses() {
    const whole = await client.responses.create({ model: "quick", input: "Hello", instructions: "Be terse." });
    const tools = [{ type: "function", name: "get_weather", parameters: CITY, strict: false }];
    const called = await client.responses.create({ model: "quick", input: "Hello", tools, tool_choice: "required" });
    const final = await client.responses.stream({ model: "quick", input: "Hello" }).finalResponse();
    if (final.output_text !== whole.output_text) throw new Error(`${final.output_text} is not ${whole.output_text}`);
    return { text: final.output_text, tokens: final.usage.output_tokens, name: called.output[0].name };
  },
  async completions() {
    const made = await client.completions.create({ model: "quick", prompt: "Once upon a time", max_tokens: 50 });
    return { text: made.choices[0].text, tokens: made.usage.completion_tokens };
  },
  async embeddings() {
    const made = await client.embeddings.create({ model: "vectors", input: TEXTS });
    return { vectors: made.data.map((item) => item.embedding) };
  },
  async models() {
    const found = [];
    for await (const model of client.models.list()) found.push(model.id);
    return { found: found.includes("quick") };
  },
});
