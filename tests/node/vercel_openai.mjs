// The Vercel AI SDK with @ai-sdk/openai, which speaks /v1/responses: node vercel_openai.mjs ABILITY...
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { BASE_URL, BUSY, CITY, KEY, PLANET, QUESTION, WEATHER, main, refusals } from "./speaking.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const provider = (apiKey) => createOpenAI({ baseURL: BASE_URL, apiKey });
const quick = provider(KEY)("quick");
// By default the SDK refers to stored items; with this, it sends them in full.
const inFull = { openai: { store: false } };

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
  // Three turns, each with a call of the tool and its result.
  async tools() {
    const messages = [];
    const called = [];
    const { description } = WEATHER.function;
    const execute = async (given) => (called.push(given), "18 °C");
    const tools = { get_weather: tool({ description, inputSchema: jsonSchema(CITY), execute }) };
    let made;
    for (let turn = 0; turn < 3; turn++) {
      messages.push(...QUESTION);
      const asked = { model: quick, messages, stopWhen: stepCountIs(3), tools };
      if (turn === 1) {
        const streamed = streamText(asked);
        await streamed.consumeStream();
        made = { steps: await streamed.steps, response: await streamed.response, text: await streamed.text };
      } else made = await generateText(asked);
      messages.push(...made.response.messages);
      if (called.length !== turn + 1) throw new Error(`${called.length} calls in turn ${turn}`);
    }
    return { name: made.steps[0].toolCalls[0].toolName, arguments: called[2], text: made.text };
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
  async responses() {
    const made = await generateText({ model: quick, prompt: "Hello" });
    const previousResponseId = made.providerMetadata.openai.responseId;
    const providerOptions = { openai: { previousResponseId } };
    const next = await generateText({ model: quick, prompt: "And again", providerOptions });
    if (next.usage.inputTokens <= made.usage.inputTokens) throw new Error("the conversation was not continued");
    const alone = await generateText({ model: quick, prompt: "Hello", providerOptions: inFull });
    if (alone.text !== made.text) throw new Error(alone.text);
    return { text: made.text, tokens: made.usage.outputTokens };
  },
  async cancel() {
    const leaving = new AbortController();
    const model = provider(KEY)("endless");
    const asked = { model, messages: QUESTION, abortSignal: leaving.signal, onError: () => {} };
    let pieces = 0;
    for await (const _ of streamText(asked).textStream) if (++pieces === 4) leaving.abort();
    return { pieces };
  },
});
