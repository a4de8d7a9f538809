// What the pages need beside htmx: local times, clocks that count, the two curves, and whether the page is live.
"use strict";
(() => {
  const $ = (s, from = document) => from.querySelector(s);

  // Times come as UTC and are shown as the reader's own.
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const minute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeStyle: "long" });
  const localTimes = (from) => from.querySelectorAll("time[data-ms]").forEach((t) => {
    const at = new Date(+t.dataset.ms);
    t.textContent = (at.toDateString() === new Date().toDateString() ? clock : day).format(at);
    t.title = full.format(at);
  });

  // Clocks count from data-since.
  const two = (n) => String(n).padStart(2, "0");
  const elapsed = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 60) return s + " s";
    return s < 3600 ? Math.floor(s / 60) + ":" + two(s % 60) : Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
  };
  const clocks = (from) => from.querySelectorAll("[data-since]").forEach((e) => { e.textContent = elapsed(Date.now() - e.dataset.since); });
  setInterval(() => clocks(document), 1000);

  const dress = (from) => { localTimes(from); clocks(from); };

  // The curves. Their colours are the page's.
  const keep = 600;
  const series = { t: [], tokens: [], waiting: [] };
  const curves = {};
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const sizes = new ResizeObserver((boxes) => boxes.forEach(({ target: b }) => {
    const c = curves[b.id];
    if (b.clientWidth && (c.width !== b.clientWidth || c.height !== b.clientHeight)) c.setSize({ width: b.clientWidth, height: b.clientHeight });
  }));

  const draw = (id, values, whole) => {
    const box = $("#" + id);
    if (!box || !box.clientWidth || series.t.length < 2) return; // of one point uPlot makes a day
    const axis = { stroke: () => colour("--soft"), grid: { stroke: () => colour("--track"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const data = [series.t, series[values]];
    if (curves[id]) return curves[id].setData(data);
    curves[id] = new uPlot({
      width: box.clientWidth, height: box.clientHeight, legend: { show: false }, cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      padding: [8, 4, 0, 0],
      scales: { x: { range: (u, from, to) => [Math.min(from, to - 60), to] }, y: { range: (u, from, to) => [0, Math.max(to * 1.15, whole ? 4 : 1)] } },
      axes: [
        { ...axis, size: 24, space: 90, values: (u, at, i, space, step) => at.map((s) => (step < 60 ? clock : minute).format(new Date(s * 1000))) },
        { ...axis, size: 46, space: 32, values: (u, at) => at.map((v) => whole && v % 1 ? "" : v.toLocaleString()) },
      ],
      series: [{}, { stroke: () => colour("--fill"), width: 1.75, fill: () => colour("--fill") + "22", points: { show: false } }],
    }, data, box);
    sizes.observe(box);
  };

  const label = (id, what, value) => { const b = $("#" + id); if (b) b.setAttribute("aria-label", what + " over the last ten minutes; now " + value.toLocaleString(undefined, { maximumFractionDigits: 1 })); };

  const drawAll = () => {
    draw("curve-tokens", "tokens", false);
    draw("curve-waiting", "waiting", true);
  };

  const load = async () => {
    const at = $("[data-series]");
    if (!at) return;
    try {
      const r = await fetch(at.dataset.series, { headers: { Accept: "application/json" } });
      if (!r.ok) return;
      const s = await r.json();
      series.t = s.t; series.tokens = s.tokens; series.waiting = s.waiting || s.t.map(() => 0);
      drawAll();
    } catch { /* the stream says that the server is away */ }
  };

  const tick = (e) => {
    const p = JSON.parse(e.data);
    if (series.t.length && p.t <= series.t.at(-1)) return;
    series.t.push(p.t); series.tokens.push(p.tokens); series.waiting.push(p.waiting || 0);
    while (series.t.length > keep) { series.t.shift(); series.tokens.shift(); series.waiting.shift(); }
    drawAll();
    if (p.t % 30 === 0) { label("curve-tokens", "Tokens per second", p.tokens); label("curve-waiting", "Waiting jobs", p.waiting || 0); }
  };

  // Live, or not.
  const live = (state, text) => {
    const l = $("#live");
    if (!l || l.dataset.state === state) return;
    l.dataset.state = state;
    $(".live-text", l).textContent = text;
  };

  const say = (text) => {
    const s = $("#said");
    s.textContent = text;
    s.hidden = !text;
    clearTimeout(say.timer);
    if (text) say.timer = setTimeout(() => say(""), 8000);
  };

  const heard = new WeakSet();
  document.addEventListener("htmx:sseOpen", (e) => {
    live("on", "Live");
    load();
    const source = e.detail.source;
    if (heard.has(source)) return;
    heard.add(source);
    source.addEventListener("tick", tick);
  });
  document.addEventListener("htmx:sseError", () => live("lost", "Connecting…"));
  document.addEventListener("htmx:sseMessage", (e) => dress(e.target));
  document.addEventListener("htmx:responseError", (e) => {
    if (e.detail.xhr.status === 401) return location.reload();
    say(e.detail.xhr.responseText.slice(0, 300) || "That did not work (" + e.detail.xhr.status + ").");
  });
  document.addEventListener("htmx:sendError", () => say("Lorry does not answer."));
  document.addEventListener("change", (e) => { if (e.target.id === "tenant") e.target.form.submit(); });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Object.values(curves).forEach((c) => c.redraw()));

  dress(document);
  load();
})();
