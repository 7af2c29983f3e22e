// One answer of the model: what is asked, and what its chunks add up to.

import { streamChunks } from "./api.js";

const MIN_RATE_S = 0.01; // a rate over less says how the network cut the stream
const TEXT_MAX_TOKENS = 256; // /v1/completions ends after 16 by itself

/** The path and the body that ask for the next message of a chat. */
export function answerRequest({ model, messages, isChat, system, sampling }) {
  const shared = {
    model: model.id,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true }, // exact when it is stopped, too
    ...sampling,
  };
  if (!isChat) {
    const prompt = messages.map((message) => message.content).join("");
    return { path: "v1/completions", body: { max_tokens: TEXT_MAX_TOKENS, ...shared, prompt } };
  }
  const said = messages.filter(({ role, content }) => role === "user" || content !== ""); // not what failed
  const turns = said.map(({ role, content }) => ({ role, content }));
  if (system) turns.unshift({ role: "system", content: system });
  return { path: "v1/chat/completions", body: { ...shared, messages: turns } };
}

/** An answer with nothing in it yet. */
export const emptyAnswer = () => ({
  role: "assistant",
  content: "",
  reasoning: "",
  reasoningMs: null,
  toolCalls: [],
  finishReason: null,
  error: null,
  stats: null,
});

/** Fills an answer from its stream; calls `onChange` after each chunk. Throws ApiError, and AbortError. */
export async function streamAnswer(answer, { path, body }, { signal, onChange }) {
  const clock = new Clock();
  for await (const chunk of streamChunks(path, body, signal)) {
    const choice = chunk.choices?.[0];
    if (choice) addChoice(answer, choice, clock);
    if (chunk.usage) clock.usage = chunk.usage;
    answer.stats = clock.stats();
    onChange();
  }
}

function addChoice(answer, choice, clock) {
  const delta = choice.delta ?? { content: choice.text };
  const reasoning = delta.reasoning ?? delta.reasoning_content ?? "";
  const calls = delta.tool_calls ?? [];
  if (reasoning || delta.content || calls.length > 0) clock.tick();
  answer.reasoning += reasoning;
  const isThinking = answer.reasoning !== "" && answer.reasoningMs === null;
  if (isThinking && (delta.content || calls.length > 0 || choice.finish_reason)) {
    answer.reasoningMs = clock.sinceFirstMs();
  }
  answer.content += delta.content ?? "";
  for (const call of calls) addToolCall(answer.toolCalls, call);
  answer.finishReason = choice.finish_reason ?? answer.finishReason;
}

function addToolCall(calls, delta) {
  const index = delta.index ?? calls.length;
  const call = (calls[index] ??= { name: "", arguments: "" });
  call.name += delta.function?.name ?? "";
  call.arguments += delta.function?.arguments ?? "";
}

/** Times of an answer. TTFT is the first chunk with content minus the send time. */
class Clock {
  usage = null;
  #start = performance.now();
  #firstMs = null;
  #lastMs = null;
  #numChunks = 0;

  sinceFirstMs() {
    return this.#elapsedMs() - (this.#firstMs ?? 0);
  }

  tick() {
    this.#lastMs = this.#elapsedMs();
    this.#firstMs ??= this.#lastMs;
    this.#numChunks += 1;
  }

  stats() {
    const numTokens = this.usage?.completion_tokens ?? this.#numChunks;
    const seconds = (this.#lastMs - this.#firstMs) / 1000;
    return {
      ttftMs: this.#firstMs,
      tokensPerS: numTokens > 1 && seconds >= MIN_RATE_S ? (numTokens - 1) / seconds : null,
      numTokens,
      numPromptTokens: this.usage?.prompt_tokens ?? null,
      numCachedTokens: this.usage?.prompt_tokens_details?.cached_tokens ?? null,
    };
  }

  #elapsedMs() {
    return performance.now() - this.#start;
  }
}
