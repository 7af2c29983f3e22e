// Asks for the metrics each second while somebody can see the charts.

import { fetchMetrics } from "./api.js";
import { Charts } from "./charts.js";
import { byId } from "./dom.js";
import { MetricsHistory, parseMetrics } from "./metrics.js";

const PERIOD_MS = 1000;
const TIMEOUT_MS = 5000;
const NUM_READINGS = 121; // two minutes

/** Starts to ask, for as long as the page is open. */
export function startLive() {
  const history = new MetricsHistory(NUM_READINGS);
  const charts = new Charts(byId("charts"), NUM_READINGS);
  const turn = async () => {
    if (!document.hidden && !byId("panel").hidden) await read(history, charts);
    setTimeout(turn, PERIOD_MS);
  };
  turn();
}

async function read(history, charts) {
  try {
    const text = await fetchMetrics(AbortSignal.timeout(TIMEOUT_MS));
    history.add(parseMetrics(text), performance.now());
    charts.update(history.series());
    say("The last two minutes of the whole server.");
  } catch (error) {
    say(error.status === 401 ? "The figures need a key." : "The server gives no figures at present.");
  }
}

function say(text) {
  const state = byId("live-state");
  if (state.textContent !== text) state.textContent = text;
}
