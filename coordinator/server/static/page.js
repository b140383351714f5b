// Says whether the page is live, keeps the window's title true, and tries again where htmx's event
// stream extension does not: when the very first connection fails.
"use strict";
(() => {
  const again_ms = 15000;
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  let timer = 0;

  const say = (state, text) => {
    if (link.dataset.state === state) return;
    link.dataset.state = state;
    link.textContent = text;
  };
  const retitle = () => {
    const verdict = document.getElementById("verdict");
    if (verdict) document.title = verdict.dataset.title;
  };
  const lost = () => {
    const now = new Date().toISOString().slice(11, 16);
    say("lost", `Not live since ${now} UTC; trying again`);
  };
  const retry = () => {
    lost();
    clearTimeout(timer);
    timer = setTimeout(() => htmx.trigger(live, "owm:again"), again_ms);
  };

  say("wait", "Connecting");
  document.addEventListener("htmx:sse:after:connection", () => {
    clearTimeout(timer);
    say("live", "Live");
  });
  document.addEventListener("htmx:sse:before:connection", (event) => {
    if (event.detail.connection.attempt > 0 && !document.hidden) lost();
  });
  document.addEventListener("htmx:sse:error", lost);
  document.addEventListener("htmx:response:error", retry);
  document.addEventListener("htmx:error", retry);
  document.addEventListener("htmx:after:swap", retitle);
})();
