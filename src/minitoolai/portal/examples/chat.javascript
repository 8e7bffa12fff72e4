const answer = await fetch("https://ai.example.com/v1/chat/completions", {
  method: "POST",
  headers: { "Authorization": "Bearer sk-…", "Content-Type": "application/json" },
  body: JSON.stringify({
    model: "gpt-4o-mini",
    messages: [
      { role: "developer", content: "Answer in one short sentence." },
      { role: "user", content: "Which planet has the most moons?" },
    ],
    temperature: 0.7,
    max_completion_tokens: 200,
    stream: true,
  }),
});
if (!answer.ok) throw new Error((await answer.json()).error.message);
let rest = "";
for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + text).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: {")) continue;
    const event = JSON.parse(line.slice(6));
    if (event.error) throw new Error(event.error.message);
    process.stdout.write(event.choices[0]?.delta.content ?? "");
  }
}
