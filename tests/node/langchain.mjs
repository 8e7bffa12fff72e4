// LangChain.js, ChatOpenAI: node langchain.mjs ABILITY...
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { BASE_URL, BUSY, KEY, QUESTION, TEXTS, main, refusals } from "./speaking.mjs";
import { z } from "zod";

const chat = ({ key = KEY, model = "quick", ...more } = {}) =>
  new ChatOpenAI({ model, apiKey: key, maxRetries: 0, configuration: { baseURL: BASE_URL }, ...more });

await main({
  async answer() {
    const made = await chat().invoke(QUESTION);
    return { text: made.text, tokens: made.usage_metadata.output_tokens };
  },
  async stream() {
    const pieces = [];
    let tokens;
    for await (const chunk of await chat({ streamUsage: true }).stream(QUESTION)) {
      if (chunk.text) pieces.push(chunk.text);
      tokens = chunk.usage_metadata?.output_tokens ?? tokens;
    }
    return { text: pieces.join(""), pieces: pieces.length, tokens };
  },
  async tools() {
    const weather = tool(async ({ city }) => `18 °C in ${city}`, {
      name: "get_weather",
      description: "The weather of a city",
      schema: z.object({ city: z.string() }),
    });
    const able = chat().bindTools([weather]);
    const first = await able.invoke(QUESTION);
    const [call] = first.tool_calls;
    const final = await able.invoke([...QUESTION, first, await weather.invoke(call)]);
    return { name: call.name, arguments: call.args, text: final.text };
  },
  async schema() {
    return chat().withStructuredOutput(z.object({ planet: z.string() }), { method: "jsonSchema" }).invoke(QUESTION);
  },
  async errors() {
    const ask = ({ key, model, limit }) => chat({ key, model, ...(limit && { maxTokens: limit }) }).invoke(QUESTION);
    return refusals(ask, (error) => String(error.status));
  },
  async retry() {
    const began = performance.now();
    const made = await chat({ model: "busy", maxRetries: 2 }).invoke(BUSY);
    return { text: made.text, waited_s: (performance.now() - began) / 1000 };
  },
  async responses() {
    const made = await chat({ useResponsesApi: true }).invoke(QUESTION);
    return { text: made.text, tokens: made.usage_metadata.output_tokens };
  },
  async embeddings() {
    const maker = new OpenAIEmbeddings({ model: "vectors", apiKey: KEY, configuration: { baseURL: BASE_URL } });
    return { vectors: await maker.embedDocuments(TEXTS) };
  },
  async cancel() {
    const leaving = new AbortController();
    let pieces = 0;
    try {
      for await (const _ of await chat({ model: "endless" }).stream(QUESTION, { signal: leaving.signal })) {
        if (++pieces === 4) leaving.abort();
      }
    } catch (error) {
      if (!leaving.signal.aborted) throw error;
    }
    return { pieces };
  },
});
