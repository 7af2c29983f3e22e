// Small line charts in SVG, with their newest value as text beside them.

import { element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const UNKNOWN = "—";
const WIDTH = 120;
const HEIGHT = 32;

const count = (value) => String(Math.round(value));
const percent = (value) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;
const rate = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en"));

/** `least` is the smallest value that the chart is as high as; `most` bounds it. */
const CHARTS = [
  { name: "running", title: "Running", format: count, least: 4, most: Infinity },
  { name: "waiting", title: "Waiting", format: count, least: 4, most: Infinity },
  { name: "tokensPerS", title: "Tokens/s", format: rate, least: 10, most: Infinity },
  { name: "cacheUse", title: "Cache in use", format: percent, least: 1, most: 1 },
  { name: "hitRate", title: "Prefix hits", format: percent, least: 1, most: 1 },
];

/** The charts, each an element; `update` takes MetricsHistory's series. */
export class Charts {
  #charts;

  constructor(parent, numPoints) {
    this.#charts = CHARTS.map((chart) => new Chart(chart, numPoints));
    parent.append(...this.#charts.map((chart) => chart.element));
  }

  update(series) {
    for (const chart of this.#charts) chart.update(series);
  }
}

class Chart {
  #value = element("span", { className: "chart-value", textContent: UNKNOWN });
  #scale = element("span", { className: "chart-scale" });
  #line = shape("path", { class: "chart-line" });
  #area = shape("path", { class: "chart-area" });

  constructor(chart, numPoints) {
    this.chart = chart;
    this.numPoints = numPoints;
    const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" };
    const drawing = shape("svg", box);
    drawing.append(this.#area, this.#line);
    const title = element("span", { className: "chart-title", textContent: chart.title });
    const text = element("p", { attributes: { "data-chart": chart.name } }, [title, " ", this.#value, this.#scale]);
    this.element = element("div", { className: "chart" }, [text, drawing]);
  }

  update(series) {
    const values = series.map((figures) => figures[this.chart.name]);
    const newest = values.at(-1) ?? null;
    this.#value.textContent = newest === null ? UNKNOWN : this.chart.format(newest);
    const peak = Math.max(0, ...values.map((value) => value ?? 0));
    const top = Math.min(Math.max(this.chart.least, peak), this.chart.most);
    const hasPeak = newest !== null && this.chart.most === Infinity;
    this.#scale.textContent = hasPeak ? `peak ${this.chart.format(peak)}` : "";
    const points = this.#points(values, top);
    this.#line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    const [first, last] = [points[0], points.at(-1)].map((point) => point?.split(",")[0]);
    this.#area.setAttribute("d", points.length > 1 ? `M${first},${HEIGHT}L${points.join("L")}L${last},${HEIGHT}Z` : "");
  }

  /** "x,y" of each known value; the newest is at the right. */
  #points(values, top) {
    const step = WIDTH / (this.numPoints - 1);
    const offset = WIDTH - step * (values.length - 1);
    return values.flatMap((value, index) => {
      if (value === null) return [];
      const y = HEIGHT - 1 - (Math.min(value, top) / top) * (HEIGHT - 2);
      return [`${(offset + index * step).toFixed(2)},${y.toFixed(2)}`];
    });
  }
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
