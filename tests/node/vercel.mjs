// The Vercel AI SDK with @ai-sdk/openai-compatible: node vercel.mjs ABILITY...
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { BASE_URL, BUSY, CITY, KEY, PLANET, QUESTION, TEXTS, WEATHER, main, refusals } from "./speaking.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const provider = (apiKey) =>
  createOpenAICompatible({
    name: "minitoolai",
    baseURL: BASE_URL,
    apiKey,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
const quick = provider(KEY)("quick");

await main({
  async answer() {
    const made = await generateText({ model: quick, messages: QUESTION });
    return { text: made.text, tokens: made.usage.outputTokens };
  },
  async stream() {
    const made = streamText({ model: quick, messages: QUESTION });
    const pieces = [];
    for await (const piece of made.textStream) pieces.push(piece);
    return { text: pieces.join(""), pieces: pieces.length, tokens: (await made.usage).outputTokens };
  },
  async tools() {
    let called;
    const { description } = WEATHER.function;
    const execute = async (given) => ((called = given), "18 °C");
    const made = await generateText({
      model: quick,
      messages: QUESTION,
      stopWhen: stepCountIs(3),
      tools: { get_weather: tool({ description, inputSchema: jsonSchema(CITY), execute }) },
    });
    return { name: made.steps[0].toolCalls[0].toolName, arguments: called, text: made.text };
  },
  async schema() {
    const output = Output.object({ schema: jsonSchema(PLANET) });
    return (await generateText({ model: quick, messages: QUESTION, output })).output;
  },
  async errors() {
    const ask = ({ key, model, limit }) =>
      generateText({
        model: provider(key)(model),
        messages: QUESTION,
        maxRetries: 0,
        ...(limit && { maxOutputTokens: limit }),
      });
    return refusals(ask, (error) => `${error.name} ${error.statusCode}`);
  },
  async retry() {
    const began = performance.now();
    const made = await generateText({ model: provider(KEY)("busy"), messages: BUSY, maxRetries: 2 });
    return { text: made.text, waited_s: (performance.now() - began) / 1000 };
  },
  async headers() {
    const made = await generateText({ model: quick, messages: QUESTION });
    return { generation: made.response.headers["x-generation-id"], text: made.text };
  },
  async embeddings() {
    const model = provider(KEY).textEmbeddingModel("vectors");
    return { vectors: (await embedMany({ model, values: TEXTS })).embeddings };
  },
  async cancel() {
    const leaving = new AbortController();
    const model = provider(KEY)("endless");
    const made = streamText({ model, messages: QUESTION, abortSignal: leaving.signal, onError: () => {} });
    let pieces = 0;
    for await (const _ of made.textStream) if (++pieces === 4) leaving.abort();
    return { pieces };
  },
});
