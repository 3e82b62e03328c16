// One question after another through OpenAI's library for Node; what came back goes to standard output as JSON.
// node openai_node.mjs CASE, with OPENAI_BASE_URL, OPENAI_API_KEY and WORDS (JSON: name, prompt, too_long) in the environment.

import OpenAI from "openai";

const words = JSON.parse(process.env.WORDS);
const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: "user", content: words.prompt }];
const greedy = { model: words.name, temperature: 0, max_tokens: 12 };

const failed = async (asked) => {
  try {
    await asked;
  } catch (error) {
    const { status, code, type, param, message } = error;
    return { name: error.constructor.name, isOurs: error instanceof OpenAI.APIError, status, code, type, param, message };
  }
  return null;
};

const untilRunning = async () => {
  const headers = { Authorization: `Bearer ${client.apiKey}` };
  for (;;) {
    const text = await (await fetch(new URL("/metrics", client.baseURL), { headers })).text();
    if (/^llamahost_requests_running{.*} [1-9]/m.test(text)) return;
  }
};

const cases = {
  async chat() {
    const { data, response } = await client.chat.completions.create({ messages, ...greedy }).withResponse();
    return { ...data.choices[0], usage: data.usage, model: data.model, request: data._request_id, status: response.status };
  },
  async stream() {
    const stream = await client.chat.completions.create({
      messages,
      stream: true,
      stream_options: { include_usage: true },
      ...greedy,
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return chunks;
  },
  async helper() {
    const snapshots = [];
    const stream = client.chat.completions.stream({ messages, ...greedy });
    stream.on("content", (delta, snapshot) => snapshots.push(snapshot));
    const whole = await stream.finalChatCompletion();
    return { snapshots, text: await stream.finalContent(), finish: whole.choices[0].finish_reason };
  },
  async completion() {
    const answer = await client.completions.create({ prompt: [words.prompt, "one"], logprobs: 1, ...greedy });
    return { choices: answer.choices, usage: answer.usage };
  },
  async stopped() {
    const answer = await client.completions.create({ prompt: words.prompt, ...greedy, stop: words.stop });
    return answer.choices[0];
  },
  async many() {
    const ask = async (k) => {
      let text = "";
      const stream = await client.completions.create({ prompt: `number ${k}`, stream: true, ...greedy });
      for await (const chunk of stream) text += chunk.choices[0]?.text ?? "";
      return text;
    };
    return Promise.all(Array.from({ length: words.n_many }, (_, k) => ask(k)));
  },
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids, one: await client.models.retrieve(words.name) };
  },
  async errors() {
    const stranger = new OpenAI({ apiKey: "wrong", maxRetries: 0 });
    return {
      unknown: await failed(client.chat.completions.create({ messages, ...greedy, model: words.name + "x" })),
      key: await failed(stranger.chat.completions.create({ messages, ...greedy })),
      long: await failed(client.completions.create({ prompt: words.too_long, ...greedy })),
      long_streamed: await failed(client.completions.create({ prompt: words.too_long, ...greedy, stream: true })),
      range: await failed(client.chat.completions.create({ messages, ...greedy, temperature: -1 })),
    };
  },
  async cancel() {
    const stream = await client.completions.create({ prompt: "a", model: words.name, stream: true, ...words.endless });
    for await (const chunk of stream) break; // leaving the loop aborts the request
    return null;
  },
  async abort() {
    const controller = new AbortController();
    const asked = client.completions.create({ prompt: "a", model: words.name, ...words.endless }, { signal: controller.signal });
    const told = failed(asked);
    await untilRunning();
    controller.abort();
    return told;
  },
};

console.log(JSON.stringify(await cases[process.argv[2]]()));
