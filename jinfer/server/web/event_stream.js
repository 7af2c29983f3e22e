// Server-sent events of a response, which EventSource cannot read since it sends no bodies and no keys.

const EVENT_END = /\r?\n\r?\n/;

/** The data of each event, a string. */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (buffer + value).split(EVENT_END);
      buffer = events.pop();
      for (const event of events) {
        const data = dataOf(event);
        if (data !== null) yield data;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // so that the server notices a reader who leaves early
  }
}

function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.length === 0 ? null : lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}
