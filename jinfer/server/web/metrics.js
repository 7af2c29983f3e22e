// Figures of the server from two readings of its metrics.

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})?\s+(\S+)/;
const PREFIX = "jinfer:";

/** Prometheus' text format as a Map from name, without labels and `jinfer:`, to the sum over all labels. */
export function parseMetrics(text) {
  const totals = new Map();
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    const value = Number(match?.[2]);
    if (match === null || Number.isNaN(value)) continue;
    const name = match[1].startsWith(PREFIX) ? match[1].slice(PREFIX.length) : match[1];
    totals.set(name, (totals.get(name) ?? 0) + value);
  }
  return totals;
}

/** The last readings, and what they say. Rates need two, and are null before. */
export class MetricsHistory {
  #readings = []; // {timeMs, totals}
  #maxReadings;

  constructor(maxReadings) {
    this.#maxReadings = maxReadings;
  }

  add(totals, timeMs) {
    this.#readings.push({ timeMs, totals });
    if (this.#readings.length > this.#maxReadings) this.#readings.shift();
  }

  /** Values of each reading: {running, waiting, tokensPerS, cacheUse, hitRate}, null for those not known. */
  series() {
    return this.#readings.map((reading, index) => this.#figures(reading, this.#readings[index - 1]));
  }

  #figures(reading, before) {
    const { totals } = reading;
    const seconds = before === undefined ? 0 : (reading.timeMs - before.timeMs) / 1000;
    const queries = growth("prefix_cache_queries_total", reading, this.#readings[0]);
    const hits = growth("prefix_cache_hits_total", reading, this.#readings[0]);
    return {
      running: totals.get("num_requests_running") ?? null,
      waiting: totals.get("num_requests_waiting") ?? null,
      tokensPerS: seconds > 0 ? growth("generation_tokens_total", reading, before) / seconds : null,
      cacheUse: totals.get("kv_cache_usage_perc") ?? null,
      hitRate: queries > 0 ? hits / queries : null,
    };
  }
}

/** What a counter grew by; what it has, where it began again with the engine. */
function growth(name, reading, before) {
  const now = reading.totals.get(name) ?? 0;
  const then = before.totals.get(name) ?? 0;
  return now >= then ? now - then : now;
}
