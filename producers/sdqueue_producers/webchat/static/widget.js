/* The web chat of sdqueue. One tag puts it into a page:
 *
 *   <script src="https://bot.example.com/webchat/widget.js" data-site="main" async></script>
 *
 * Attributes, all optional: data-site; data-title; data-conversation (a visitor may have several); data-token (of a
 * visitor whom your backend has named) or data-token-url (of your backend, answers {"token": …} to a POST with
 * cookies); data-open (open at once); data-labels (JSON with texts in another language, see LABELS).
 * Everything that people or agents have written is set as text, never as markup.
 */
(() => {
  "use strict";

  const script = document.currentScript;
  const options = script.dataset;
  const server = new URL(".", script.src).href; // …/webchat/
  const site = options.site || "";
  const conversation = options.conversation || "";

  const LABELS = Object.assign(
    {
      title: "Chat", open: "Open chat", close: "Close chat", log: "Conversation", input: "Your message", send: "Send",
      you: "You", agent: "Assistant", typing: "Assistant is typing", sending: "Sending…", waiting: "Not sent yet",
      failed: "Not sent", retry: "Try again", remove: "Remove", error: "This could not be answered.",
      connecting: "Connecting…", connected: "Connected", reconnecting: "Connection lost. Reconnecting…",
      expired: "This chat has expired. Reload the page to go on.", older: "Older messages are not kept any more.",
      hint: "Enter sends, Shift and Enter begin a new line.",
    },
    options.labels ? JSON.parse(options.labels) : {}, options.title ? { title: options.title } : {},
  );

  const ACK_MS = 20000; // longer than a server takes to hear from its queue
  const SILENCE = 2.5; // heartbeats without a sign of life, and the connection is dead
  const LONGEST_WAIT_MS = 15000;
  const LONGEST_TIMER_MS = 2 ** 31 - 1;

  // What is kept in the browser. Private windows may refuse: then it lasts as long as the page.

  const store = {
    lost: new Map(),
    get(key) {
      try { return JSON.parse(localStorage.getItem(key)); } catch { return this.lost.get(key) ?? null; }
    },
    set(key, value) {
      try {
        if (value === null) localStorage.removeItem(key);
        else localStorage.setItem(key, JSON.stringify(value));
      } catch { this.lost.set(key, value); }
    },
  };
  const keyOf = (...parts) => ["sdqueue", server, site, ...parts].join("|");

  // Who the visitor is.

  const claimsOf = (token) => {
    try {
      const body = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
      return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(body), (c) => c.charCodeAt(0))));
    } catch { return null; }
  };

  const identity = {
    token: options.token || null,
    refused: null, // the token that the server would not take

    async get() {
      if (options.tokenUrl) {
        if (!this.token || this.token === this.refused) this.token = (await post(options.tokenUrl, {}, null, "include")).token;
        return this.token;
      }
      if (options.token) return this.token === this.refused ? null : this.token;
      const kept = store.get(keyOf("token"));
      const claims = kept && kept !== this.refused ? claimsOf(kept) : null;
      const now = Date.now() / 1000;
      if (claims && claims.exp - now > (claims.exp - claims.iat) / 2) return kept;
      const wanted = site ? { site } : {};
      if (claims && claims.exp > now) {
        try { return this.keep((await post("token", wanted, kept)).token); } catch { return kept; }
      }
      return this.keep((await post("token", wanted, null)).token);
    },
    keep(token) {
      store.set(keyOf("token"), token);
      return token;
    },
  };

  const post = async (path, body, token, credentials = "omit") => {
    const headers = { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    const signal = AbortSignal.timeout(ACK_MS);
    const answer = await fetch(new URL(path, path === options.tokenUrl ? document.baseURI : server), {
      method: "POST", headers, body: JSON.stringify(body), credentials, signal,
    });
    const fields = await answer.json().catch(() => ({}));
    if (answer.ok) return fields;
    const error = new Error(fields.detail || `HTTP ${answer.status}`);
    throw Object.assign(error, { status: answer.status, retry: fields.retry_after_s ?? (answer.status >= 500 ? 5 : null) });
  };

  // What is to be sent: one message at a time, each under an id of its own, until the server says that it has it.

  const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

  const queue = {
    items: [],
    known: new Set(), // all ids that this window has had
    key: null,
    open(visitor) {
      const key = keyOf("queue", conversation, visitor);
      if (key === this.key) return;
      const kept = store.get(key) || [];
      const unclaimed = this.key === null ? this.items : []; // never another visitor's
      this.key = key;
      this.items = [...kept, ...unclaimed.filter((item) => !kept.some((other) => other.id === item.id))];
      this.save();
    },
    save() {
      if (!this.key) return;
      for (const item of this.items) this.known.add(item.id);
      // Another window of the visitor may have put something there: it stays until that window has sent it.
      const others = (store.get(this.key) || []).filter((item) => !this.known.has(item.id));
      const all = [...others, ...this.items];
      store.set(this.key, all.length ? all : null);
    },
    add(text) {
      const item = { id: newId(), text };
      this.items.push(item);
      this.save();
      return item;
    },
    remove(id) {
      this.items = this.items.filter((item) => item.id !== id);
      this.save();
    },
    next() {
      return this.items.find((item) => !item.failed);
    },
  };

  // The connection: a WebSocket, or where that does not come about an event stream and posts.

  const link = {
    token: null,
    after: null,
    way: null, // what is connected: {send(item), close()}
    failures: 0, // of WebSockets that never said welcome, in a row
    tries: 0,
    timer: 0,
    started: false,
    inFlight: null,

    start() {
      if (this.started) return;
      this.started = true;
      addEventListener("online", () => this.soon());
      this.connect();
    },
    async connect() {
      clearTimeout(this.timer);
      if (!this.tries) ui.status("connecting");
      try {
        this.token = await identity.get();
      } catch (error) {
        return this.again(error.retry);
      }
      if (!this.token) return ui.status("expired");
      const claims = claimsOf(this.token);
      const visitor = claims?.sub ?? "";
      // Renewed in time, so that an anonymous visitor stays the same one; the next connection uses it.
      const left = claims ? (claims.exp * 1000 - Date.now()) / 2 + 100 : LONGEST_TIMER_MS;
      clearTimeout(this.renewal);
      this.renewal = setTimeout(() => identity.get().catch(() => {}), Math.min(left, LONGEST_TIMER_MS));
      if (this.visitor !== undefined && this.visitor !== visitor) { this.after = null; ui.clear(); }
      this.visitor = visitor;
      queue.open(visitor);
      ui.showQueue();
      if (this.failures < 2 && "WebSocket" in window) this.openSocket();
      else this.openStream();
    },
    soon() {
      if (this.started && !this.way) { this.tries = Math.min(this.tries, 1); this.connect(); }
    },
    again(seconds, quiet = false) {
      this.way = this.inFlight = null;
      this.tries += 1;
      if (!quiet) ui.status("reconnecting");
      const wait = Math.min(500 * 2 ** (this.tries - 1), LONGEST_WAIT_MS) * (0.75 + Math.random() / 2);
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.connect(), Math.max(wait, (seconds || 0) * 1000));
    },
    up(way) {
      this.way = way;
      this.tries = 0;
      this.inFlight = null;
      ui.status("connected");
      this.pump();
    },
    pump() {
      const item = this.way && !this.inFlight && queue.next();
      if (!item) return;
      this.inFlight = item;
      ui.delivery(item, "sending");
      this.way.send(item);
    },
    settled(id, problem) {
      const item = queue.items.find((other) => other.id === id);
      if (this.inFlight?.id === id) this.inFlight = null;
      if (!item) return this.pump();
      if (!problem) { queue.remove(id); ui.sent(id); return this.pump(); }
      if (problem.retry === null) {
        item.failed = problem.detail;
        queue.save();
        ui.delivery(item, "failed");
        return this.pump();
      }
      // The ones behind it wait as well, or they would overtake it.
      ui.delivery(item, "waiting");
      this.inFlight = item;
      clearTimeout(this.resend);
      this.resend = setTimeout(() => this.retry(id), problem.retry * 1000);
    },
    retry(id) {
      clearTimeout(this.resend);
      const item = queue.items.find((other) => other.id === id);
      if (!item) return;
      delete item.failed;
      queue.save();
      if (this.inFlight?.id === id || !this.inFlight) { this.inFlight = null; this.pump(); }
    },

    openSocket() {
      const url = new URL("socket", server);
      url.protocol = url.protocol.replace("http", "ws");
      const socket = new WebSocket(url);
      const clock = watchdog(() => end());
      let welcome = false, waiting = 0, ended = false;
      const end = (code) => {
        if (ended) return;
        ended = true;
        clock.stop();
        clearTimeout(waiting);
        socket.close();
        if (code === 4401) identity.refused = this.token;
        this.failures = welcome ? 0 : this.failures + (code === 4401 ? 0 : 1);
        this.again(code === 4429 ? 10 : 0);
      };
      socket.onopen = () => socket.send(JSON.stringify({ type: "hello", token: this.token, after: this.after, conversation }));
      socket.onclose = (event) => end(event.code);
      socket.onmessage = ({ data }) => {
        if (ended) return;
        clock.alive();
        const event = JSON.parse(data);
        if (event.type === "welcome") {
          welcome = true;
          clock.every(event.heartbeat_s);
          ui.limit(event.max_chars);
          this.up({
            close: end,
            send: (item) => {
              socket.send(JSON.stringify({ type: "message", id: item.id, text: item.text }));
              waiting = setTimeout(end, ACK_MS);
            },
          });
        } else if (event.type === "ack" || event.type === "nack") {
          clearTimeout(waiting);
          this.settled(event.message, event.type === "nack" ? { retry: event.retry_after_s, detail: event.detail } : null);
        } else this.seen(event);
      };
    },

    async openStream() {
      const stop = new AbortController();
      const clock = watchdog(() => stop.abort());
      const token = this.token;
      let seconds = 0, quiet = false;
      try {
        const url = new URL("events", server);
        if (conversation) url.searchParams.set("conversation", conversation);
        if (this.after) url.searchParams.set("after", this.after);
        const headers = { Authorization: `Bearer ${token}`, Accept: "text/event-stream" };
        const answer = await fetch(url, { headers, signal: stop.signal, cache: "no-store", credentials: "omit" });
        if (answer.status === 401) identity.refused = token;
        if (!answer.ok) throw Object.assign(new Error(), { seconds: Number(answer.headers.get("Retry-After")) });
        this.up({ close: () => stop.abort(), send: (item) => this.postMessage(item, token, stop) });
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let text = "";
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          clock.alive();
          const parts = (text + value).split("\n\n");
          text = parts.pop();
          for (const part of parts) quiet = this.readPart(part, token) || quiet;
        }
      } catch (error) {
        seconds = error.seconds || 0;
      }
      clock.stop();
      stop.abort();
      this.failures = 1; // a WebSocket gets another chance
      this.again(seconds, quiet);
    },
    readPart(part, token) {
      const fields = {};
      for (const line of part.split("\n")) {
        const [, name, value] = /^([a-z]*): ?(.*)$/.exec(line) || [];
        if (name) fields[name] = value;
      }
      if (!fields.data) return false;
      const data = JSON.parse(fields.data);
      if (fields.event !== "end") this.seen(data);
      else if (data.retry_after_s === null) identity.refused = token;
      return data.reason === "come-back";
    },
    async postMessage(item, token, stop) {
      try {
        const body = { id: item.id, text: item.text, ...(conversation ? { conversation } : {}) };
        await post("messages", body, token);
        this.settled(item.id, null);
      } catch (error) {
        if (error.status === 401) identity.refused = token;
        if (error.status && error.status !== 401) this.settled(item.id, { retry: error.retry, detail: error.message });
        else stop.abort(); // cut, or another token is needed: the next connection sends it again
      }
    },

    seen(event) {
      if (event.id) this.after = event.id;
      if (event.type === "reset") { this.after = null; ui.clear(); ui.note(LABELS.older); ui.showQueue(); }
      else if (event.type === "message") { queue.remove(event.message); ui.said(event); }
      else if (event.type === "typing") ui.typing(event.on ? event.for_s : 0);
      else if (["partial", "final", "error"].includes(event.type)) ui.reply(event);
    },
  };

  const watchdog = (bite) => {
    let seconds = 15, timer = 0;
    const dog = {
      every(heartbeat) { seconds = heartbeat; dog.alive(); },
      alive() { clearTimeout(timer); timer = setTimeout(bite, seconds * SILENCE * 1000); },
      stop() { clearTimeout(timer); },
    };
    dog.alive();
    return dog;
  };

  // What is seen.

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const ui = {
    replies: new Map(), // by message
    own: new Map(), // by message id
    texts: new Map(), // what was said, by turn

    build() {
      const host = make("div", { "data-sdqueue-webchat": "" });
      const root = host.attachShadow({ mode: "open" });
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(STYLE);
      root.adoptedStyleSheets = [sheet];
      this.launcher = make("button", { type: "button", class: "launcher", "aria-expanded": "false", "aria-controls": "panel" }, LABELS.open);
      this.state = make("p", { class: "state", role: "status" });
      this.closer = make("button", { type: "button", class: "plain", "aria-label": LABELS.close }, "×");
      this.log = make("div", { class: "log", role: "log", "aria-live": "polite", "aria-label": LABELS.log, tabindex: "0" });
      this.typist = make("p", { class: "typing", hidden: "" }, LABELS.typing, make("span", { class: "dots", "aria-hidden": "true" }, make("i"), make("i"), make("i")));
      this.input = make("textarea", { id: "input", rows: "2", autocomplete: "off", "aria-describedby": "hint", dir: "auto" });
      const form = make("form", {}, make("label", { for: "input" }, LABELS.input), this.input, make("button", { type: "submit" }, LABELS.send), make("p", { id: "hint" }, LABELS.hint));
      this.panel = make("section", { id: "panel", role: "dialog", "aria-label": LABELS.title, hidden: "" }, make("header", {}, make("h2", {}, LABELS.title), this.closer), this.state, this.log, this.typist, form);
      root.append(this.launcher, this.panel);
      this.launcher.onclick = () => this.show(true);
      this.closer.onclick = () => this.show(false);
      this.panel.onkeydown = (event) => { if (event.key === "Escape") this.show(false); };
      this.input.onkeydown = (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        form.requestSubmit();
      };
      form.onsubmit = (event) => {
        event.preventDefault();
        const text = this.input.value.trim();
        if (!text) return;
        this.input.value = "";
        this.say(text);
      };
      document.body.append(host);
      if (options.open !== undefined) this.show(true, false);
    },
    show(open, focus = true) {
      this.panel.hidden = !open;
      this.launcher.hidden = open;
      this.launcher.setAttribute("aria-expanded", String(open));
      if (open) { link.start(); this.down(); }
      if (focus) (open ? this.input : this.launcher).focus();
    },
    status(state) {
      this.state.textContent = LABELS[state];
      this.state.dataset.state = state;
    },
    limit(characters) { this.input.maxLength = characters; },
    say(text) {
      this.ownMessage(queue.add(text), "waiting");
      this.down();
      link.pump();
    },

    // Messages

    bubble(who, kind) {
      const text = make("p", { class: "text", dir: "auto" });
      const element = make("article", { class: `message ${kind}` }, make("span", { class: "who" }, who), text);
      return Object.assign(element, { text });
    },
    place(element, before) {
      const near = this.isDown();
      this.log.insertBefore(element, before ?? this.log.querySelector(".unsent"));
      if (near) this.down();
    },
    ownMessage(item, state) {
      const near = this.isDown();
      let element = this.own.get(item.id);
      if (!element) {
        element = this.bubble(LABELS.you, "own");
        element.text.textContent = item.text;
        element.classList.add("unsent");
        this.own.set(item.id, element);
        this.log.append(element);
      }
      if (element.classList.contains("unsent")) this.delivery(item, state);
      if (near) this.down();
      return element;
    },
    delivery(item, state) {
      const element = this.own.get(item.id);
      if (!element) return;
      const near = this.isDown();
      element.querySelector(".delivery")?.remove();
      const line = make("p", { class: "delivery" }, item.failed ? `${LABELS.failed}: ${item.failed}` : LABELS[state]);
      if (item.failed || state === "waiting") line.append(this.button(LABELS.retry, () => { link.retry(item.id); link.soon(); }));
      if (item.failed) line.append(this.button(LABELS.remove, () => { queue.remove(item.id); element.remove(); this.own.delete(item.id); }));
      element.append(line);
      if (near) this.down();
    },
    sent(id) {
      const element = this.own.get(id);
      if (!element?.classList.contains("unsent")) return;
      element.classList.remove("unsent");
      element.querySelector(".delivery")?.remove();
      this.place(element); // in front of what still waits
    },
    said(event) {
      this.texts.set(event.turn, event.text);
      const element = this.ownMessage({ id: event.message, text: event.text }, "sending");
      this.sent(event.message);
      // An answer may have been quicker than the note that the message was taken.
      const first = [...this.replies.values()].find((reply) => reply.turn === event.turn);
      if (first && first.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING) this.place(element, first);
    },
    reply(event) {
      let element = this.replies.get(event.message);
      if (!element) {
        element = Object.assign(this.bubble(LABELS.agent, "reply"), { turn: event.turn });
        this.replies.set(event.message, element);
        element.setAttribute("aria-busy", "true"); // read out once it is whole
        this.place(element);
      }
      const near = this.isDown();
      if (event.append) element.text.append(event.text);
      else element.text.textContent = event.text;
      if (event.type !== "partial") {
        element.removeAttribute("aria-busy");
        this.typing(0);
      }
      element.classList.toggle("error", event.type === "error");
      element.querySelector(".delivery")?.remove();
      if (event.type === "error") this.offerRetry(element, event);
      if (near) this.down();
    },
    offerRetry(element, event) {
      element.text.textContent = event.text || LABELS.error;
      const again = this.button(LABELS.retry, () => {
        const text = this.texts.get(event.turn);
        if (text) { again.remove(); this.say(text); }
      });
      element.append(make("p", { class: "delivery" }, again));
    },
    typing(seconds) {
      clearTimeout(this.typingEnd);
      const near = this.isDown();
      this.typist.hidden = !seconds;
      if (seconds) this.typingEnd = setTimeout(() => this.typing(0), seconds * 1000);
      if (near) this.down();
    },
    button(text, act) {
      const element = make("button", { type: "button", class: "plain" }, text);
      element.onclick = act;
      return element;
    },
    note(text) { this.log.append(make("p", { class: "note" }, text)); },
    showQueue() { for (const item of queue.items) this.ownMessage(item, "waiting"); },
    clear() {
      this.log.replaceChildren();
      for (const known of [this.replies, this.own, this.texts]) known.clear();
    },
    isDown() { return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60; },
    down() { this.log.scrollTop = this.log.scrollHeight; }, // ask isDown before something is added: afterwards it is not
  };

  const STYLE = "widget.css"; // the server puts the text of that file here

  if (document.body) ui.build();
  else addEventListener("DOMContentLoaded", () => ui.build());
})();
