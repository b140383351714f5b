// Says whether the page is live, keeps the window's title true, and tries again where htmx's event
// stream extension does not: when the very first connection fails. Runs before htmx, which connects at once.
"use strict";
(() => {
  const again_ms = 15000;
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  // A tab that comes back reconnects at once: that is not worth a word.
  const patience_ms = 2000;
  // The server says something every 15 s; a line that is silent for longer is dead, whatever TCP thinks.
  const silence_ms = 40000;
  let timer = 0;
  let soon = 0;
  let watchdog = 0;

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

  const heard = () => {
    say("live", "Live");
    clearTimeout(watchdog);
    watchdog = setTimeout(() => {
      if (document.hidden) return;
      lost();
      live._htmx?.sse?.reader?.cancel();
    }, silence_ms);
  };

  say("wait", "Connecting");
  document.addEventListener("htmx:sse:after:connection", () => {
    clearTimeout(timer);
    clearTimeout(soon);
    soon = 0;
    heard();
  });
  document.addEventListener("htmx:sse:before:message", heard);
  document.addEventListener("htmx:sse:before:connection", (event) => {
    if (event.detail.connection.attempt > 0 && !soon) soon = setTimeout(lost, patience_ms);
  });
  document.addEventListener("htmx:sse:error", lost);
  document.addEventListener("htmx:response:error", retry);
  document.addEventListener("htmx:error", retry);
  document.addEventListener("htmx:after:swap", retitle);
})();
