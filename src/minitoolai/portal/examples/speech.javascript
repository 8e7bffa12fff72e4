import { writeFile } from "node:fs/promises";

const answer = await fetch("https://ai.example.com/v1/audio/speech", {
  method: "POST",
  headers: { "Authorization": "Bearer sk-…", "Content-Type": "application/json" },
  body: JSON.stringify({
    model: "tts-1",
    input: "Good morning. The coffee is ready.",
    voice: "heart",
    response_format: "mp3",
    speed: 1.0,
  }),
});
if (!answer.ok) throw new Error((await answer.json()).error.message);
await writeFile("morning.mp3", answer.body);
