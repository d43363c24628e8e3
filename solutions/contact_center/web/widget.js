/* Haechi chat: one script, no requests to anybody but the server that it came from.
 *
 *   <script src="https://bot.example/chat/shop/widget.js" async></script>
 *
 * Attributes: data-language="ko|en" (default: the page's), data-side="left|right", data-colour="#0b57d0",
 * data-mode="page" (fills the element #haechi-chat instead of floating). Everything lives in a shadow root, so that the
 * page's styles and these leave one another alone. What people or the bot wrote is always set as text, never as HTML.
 */
(() => {
  "use strict";
  const ABOUT = /*ABOUT*/ {};
  const STYLE = /*STYLE*/ "";
  const script = document.currentScript;
  const base = new URL(script.src).href.replace(/\/widget\.js(\?.*)?$/, "");
  const MAX_TEXT = 4000;
  const WORDS = {
    ko: {
      open: "상담 열기", close: "상담 닫기", restart: "새 대화", send: "보내기", write: "메시지 입력", log: "대화 내용",
      typing: "답변을 작성하고 있어요", waiting: "상담사 연결을 기다리고 있어요", place: (n) => `대기 순서 ${n}번째`,
      agent: (name) => `${name} 상담사와 대화 중이에요`, ended: "대화가 끝났어요. 메시지를 보내면 다시 시작돼요.",
      offline: "연결이 끊어졌어요. 다시 연결하고 있어요…", failed: "보내지 못했어요. 다시 시도", up: "도움이 됐어요",
      down: "도움이 안 됐어요", thanks: "의견 고맙습니다", bot: "챗봇", you: "나", language: "English",
      trouble: "지금은 상담을 열 수 없어요. 잠시 후 다시 시도해 주세요.", unread: (n) => `새 메시지 ${n}개`,
    },
    en: {
      open: "Open chat", close: "Close chat", restart: "New conversation", send: "Send", write: "Write a message",
      log: "Conversation", typing: "The assistant is writing", waiting: "Waiting for an agent",
      place: (n) => `Your place in the queue: ${n}`, agent: (name) => `You are talking with ${name}`,
      ended: "The conversation has ended. Write to start again.", offline: "Connection lost. Reconnecting…",
      failed: "Not sent. Try again", up: "Helpful", down: "Not helpful", thanks: "Thank you for your feedback",
      bot: "Assistant", you: "You", language: "한국어", trouble: "The chat cannot be opened now. Please try again later.",
      unread: (n) => `${n} new message${n > 1 ? "s" : ""}`,
    },
  };

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value != null) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child != null));
    return made;
  };
  const icon = (path) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(svg.namespaceURI, "path");
    line.setAttribute("d", path);
    svg.append(line);
    return svg;
  };
  const ICONS = {
    chat: "M4 4h16a2 2 0 0 1 2 2v9a2 2 0 0 1-2 2H9l-5 4v-4H4a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2z",
    close: "M6 6l12 12M18 6L6 18", send: "M3 11l18-8-8 18-2-8z", restart: "M4 12a8 8 0 1 0 3-6.2M4 4v4h4",
    up: "M7 11v9H4v-9zm0 0l4-8c2 0 2.5 1 2 3l-.6 3H19a2 2 0 0 1 2 2.300l-1.200 6.700a2 2 0 0 1-2 2H7",
    down: "M17 13V4h3v9zm0 0l-4 8c-2 0-2.500-1-2-3l.6-3H5a2 2 0 0 1-2-2.300l1.200-6.700a2 2 0 0 1 2-2H17",
  };
  const identity = () => `w-${crypto.getRandomValues(new Uint32Array(3)).join("-")}`;
  const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

  /** The conversation with the server: one WebSocket, or requests where WebSockets do not pass. */
  class Connection {
    constructor(listener) {
      this.listener = listener;
      this.store = `haechi:${base}`;
      this.unsent = new Map();
      this.last = 0;
      this.failures = 0;
      this.everOpened = false;
    }

    async start(language) {
      const kept = this.restore();
      if (kept) Object.assign(this, kept);
      else {
        const begun = await this.ask("POST", "/conversations", { language });
        this.conversation = begun.conversation;
        this.token = begun.token;
      }
      this.language = language;
      this.remember();
      this.stopped = false;
      this.connect();
    }

    restore() {
      try {
        return JSON.parse(sessionStorage.getItem(this.store) || "null");
      } catch {
        return null; // storage is closed to us, or holds something else
      }
    }

    remember() {
      try {
        sessionStorage.setItem(this.store, JSON.stringify({ conversation: this.conversation, token: this.token }));
      } catch { /* then a reload begins anew */ }
    }

    forget() {
      this.stop();
      try {
        sessionStorage.removeItem(this.store);
      } catch { /* nothing was kept */ }
      this.unsent.clear();
      this.last = 0;
    }

    stop() {
      this.stopped = true;
      if (this.socket) this.socket.close(1000);
      this.socket = null;
    }

    connect() {
      const socket = new WebSocket(`${base.replace(/^http/, "ws")}/conversations/${this.conversation}/socket`);
      this.socket = socket;
      socket.onopen = () => {
        socket.send(JSON.stringify({ type: "hello", token: this.token, after: this.last }));
        for (const [id, text] of this.unsent) this.transmit(id, text);
      };
      socket.onmessage = (event) => {
        this.failures = 0;
        this.everOpened = true;
        this.receive(JSON.parse(event.data));
      };
      socket.onclose = (event) => {
        if (this.socket !== socket || this.stopped) return;
        if (event.code === 1008 && /token/.test(event.reason)) this.listener.restart();
        else this.again();
      };
    }

    async again() {
      this.failures += 1;
      if (!this.everOpened && this.failures > 2) {
        this.poll();
        return;
      }
      this.listener.offline();
      await wait(Math.min(15000, 400 * 2 ** this.failures) * (0.7 + Math.random() * 0.6));
      if (!this.stopped) this.connect();
    }

    receive(frame) {
      if (frame.type === "line") {
        if (frame.seq <= this.last) return;
        this.last = frame.seq;
      }
      if (frame.type === "answered") this.unsent.delete(frame.message);
      this.listener[frame.type]?.(frame);
    }

    say(text) {
      const id = identity();
      this.unsent.set(id, text);
      this.transmit(id, text);
      return id;
    }

    transmit(id, text) {
      if (this.polling) this.post(id, text);
      else if (this.socket?.readyState === WebSocket.OPEN) {
        this.socket.send(JSON.stringify({ type: "message", id, text, language: this.language }));
      } // else it goes out when the connection is there again
    }

    thumb(message, value) {
      if (this.polling) return this.ask("POST", `/conversations/${this.conversation}/feedback`, { message, value });
      this.socket?.send(JSON.stringify({ type: "feedback", message, value }));
      return Promise.resolve();
    }

    async post(id, text) {
      try {
        this.listener.typing({ message: id });
        await this.ask("POST", `/conversations/${this.conversation}/messages`, { id, text, language: this.language });
        await this.fetch();
        this.receive({ type: "answered", message: id });
      } catch (problem) {
        this.listener.error({ error: String(problem.message), message: id });
      }
    }

    async poll() {
      this.polling = true;
      for (const [id, text] of this.unsent) this.post(id, text);
      while (!this.stopped) {
        try {
          await this.fetch();
        } catch (problem) {
          if (problem.status === 401) return this.listener.restart();
          this.listener.offline();
        }
        await wait(3000);
      }
    }

    async fetch() {
      const found = await this.ask("GET", `/conversations/${this.conversation}?after=${this.last}`);
      for (const line of found.lines) this.receive({ type: "line", ...line });
      this.listener.status(found);
    }

    async ask(method, path, body) {
      const headers = { ...(body && { "content-type": "application/json" }) };
      if (this.token) headers.authorization = `Bearer ${this.token}`;
      const answer = await fetch(base + path, {
        method, headers, body: body && JSON.stringify(body), credentials: "omit", cache: "no-store",
      });
      if (answer.status === 204) return null;
      const content = await answer.json();
      if (!answer.ok) throw Object.assign(new Error(content.error), { status: answer.status });
      return content;
    }
  }

  /** What people see. */
  class Chat extends HTMLElement {
    connectedCallback() {
      if (this.shadowRoot) return;
      this.page = this.getAttribute("mode") === "page";
      this.language = this.choose();
      this.bubbles = new Map();
      this.unread = 0;
      const root = this.attachShadow({ mode: "open" });
      try {
        const sheet = new CSSStyleSheet();
        sheet.replaceSync(STYLE);
        root.adoptedStyleSheets = [sheet];
      } catch { // browsers before 2023
        const style = document.createElement("style");
        style.textContent = STYLE;
        root.append(style);
      }
      if (this.getAttribute("colour")) this.style.setProperty("--haechi-colour", this.getAttribute("colour"));
      this.draw(root);
      if (this.page) this.open();
    }

    choose() {
      const wanted = [this.getAttribute("language"), document.documentElement.lang, ...(navigator.languages || [])];
      const known = ABOUT.languages.filter((each) => WORDS[each]);
      const found = wanted.map((each) => (each || "").slice(0, 2).toLowerCase()).find((each) => known.includes(each));
      return found || known[0] || "ko";
    }

    say(key, ...values) {
      const words = WORDS[this.language][key];
      return typeof words === "function" ? words(...values) : words;
    }

    get botTitle() {
      return ABOUT.title[this.language] || Object.values(ABOUT.title)[0] || ABOUT.bot;
    }

    draw(root) {
      this.connection = new Connection(this);
      const title = element("h2", { id: "title" }, this.botTitle);
      this.statusLine = element("p", { class: "status", role: "status" });
      this.log = element("ol", { class: "log", role: "log", "aria-live": "polite", tabindex: "0" });
      this.typingDots = element("li", { class: "typing", hidden: true }, element("i"), element("i"), element("i"));
      this.log.append(this.typingDots);
      this.quick = element("div", { class: "quick" });
      this.input = element("textarea", {
        rows: "1", maxlength: String(MAX_TEXT), enterkeyhint: "send", autocomplete: "off", oninput: () => this.grow(),
        onkeydown: (event) => {
          // while Hangul is being composed, Enter ends the syllable
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
            event.preventDefault();
            this.submit();
          }
        },
      });
      this.sendButton = element("button", { class: "send", type: "submit" }, icon(ICONS.send));
      const form = element("form", { class: "compose", onsubmit: (event) => { event.preventDefault(); this.submit(); } },
        this.input, this.sendButton);
      this.restartButton = element("button", { type: "button", onclick: () => this.restart() }, icon(ICONS.restart));
      const others = ABOUT.languages.filter((each) => WORDS[each]).length > 1;
      this.languageButton = element("button", { type: "button", class: "words", hidden: !others,
        onclick: () => this.switchLanguage() });
      this.closeButton = element("button", { type: "button", hidden: this.page, onclick: () => this.close() },
        icon(ICONS.close));
      const header = element("header", {}, element("span", { class: "face" }, "해"),
        element("div", {}, title, this.statusLine),
        element("div", { class: "tools" }, this.languageButton, this.restartButton, this.closeButton));
      this.panel = element("section", {
        class: this.page ? "panel page" : "panel", role: this.page ? "region" : "dialog", "aria-labelledby": "title",
        hidden: !this.page, onkeydown: (event) => { if (event.key === "Escape" && !this.page) this.close(); },
      }, header, this.log, this.quick, form);
      this.badge = element("b", { class: "badge", hidden: true });
      this.launcher = element("button", {
        class: "launcher", type: "button", hidden: this.page, "aria-expanded": "false", onclick: () => (this.panel.hidden ? this.open() : this.close()),
      }, icon(ICONS.chat), this.badge);
      root.append(this.panel, this.launcher);
      this.label();
    }

    label() {
      this.panel.lang = this.language;
      this.log.setAttribute("aria-label", this.say("log"));
      this.typingDots.setAttribute("aria-label", this.say("typing"));
      this.input.placeholder = this.say("write");
      this.languageButton.textContent = this.say("language");
      for (const [button, key] of [[this.sendButton, "send"], [this.restartButton, "restart"],
        [this.closeButton, "close"], [this.launcher, "open"], [this.input, "write"]]) {
        button.setAttribute("aria-label", this.say(key));
        if (button !== this.input) button.title = this.say(key);
      }
      this.shadowRoot.getElementById("title").textContent = this.botTitle;
    }

    async open() {
      this.panel.hidden = false;
      this.launcher.setAttribute("aria-expanded", "true");
      this.unread = 0;
      this.badge.hidden = true;
      this.input.focus({ preventScroll: true });
      if (!this.begun) {
        this.begun = true;
        await this.begin();
      }
    }

    close() {
      this.panel.hidden = true;
      this.launcher.setAttribute("aria-expanded", "false");
      this.launcher.focus();
    }

    async begin() {
      try {
        await this.connection.start(this.language);
      } catch (problem) {
        this.begun = false;
        this.notice(problem.status === 403 || problem.status === 404 ? problem.message : this.say("trouble"));
      }
    }

    async restart() {
      this.connection.forget();
      this.connection = new Connection(this);
      this.log.replaceChildren(this.typingDots);
      this.typingDots.hidden = true;
      this.bubbles.clear();
      this.quick.replaceChildren();
      this.notice("");
      await this.begin();
      this.input.focus();
    }

    async switchLanguage() {
      const known = ABOUT.languages.filter((each) => WORDS[each]);
      this.language = known[(known.indexOf(this.language) + 1) % known.length];
      this.connection.language = this.language;
      this.label();
    }

    grow() {
      this.input.style.height = "auto";
      this.input.style.height = `${Math.min(this.input.scrollHeight, 120)}px`;
    }

    submit() {
      const text = this.input.value.trim();
      if (!text) return;
      this.input.value = "";
      this.grow();
      this.speak(text);
    }

    speak(text) {
      this.quick.replaceChildren();
      const id = this.connection.say(text);
      this.show({ who: "user", text, message: id });
    }

    // -- what the connection tells -----------------------------------------------------------------------------------

    line(line) {
      if (line.who === "user" && this.bubbles.has(line.message)) {
        // as it was stored: personal data is masked from now on
        this.fill(this.bubbles.get(line.message).querySelector(".text"), line.text);
        return;
      }
      this.show(line);
      if (line.who !== "user" && this.panel.hidden) {
        this.unread += 1;
        this.badge.textContent = String(this.unread);
        this.badge.hidden = false;
        this.launcher.setAttribute("aria-label", `${this.say("open")}, ${this.say("unread", this.unread)}`);
      }
    }

    typing() {
      this.typingDots.hidden = false;
      this.log.append(this.typingDots);
      this.log.scrollTop = this.log.scrollHeight;
    }

    answered(frame) {
      this.typingDots.hidden = true;
      this.bubbles.get(frame.message)?.classList.add("sent");
    }

    status(status) {
      if (status.mode === "waiting") {
        this.notice(`${this.say("waiting")}${status.position ? ` · ${this.say("place", status.position)}` : ""}`);
      } else if (status.mode === "agent") this.notice(this.say("agent", status.agent));
      else this.notice(status.ended ? this.say("ended") : "");
    }

    offline() {
      this.typingDots.hidden = true;
      this.notice(this.say("offline"));
    }

    error(frame) {
      this.typingDots.hidden = true;
      const bubble = frame.message && this.bubbles.get(frame.message);
      if (!bubble) return;
      bubble.querySelector(".again")?.remove();
      bubble.append(element("button", { class: "again", type: "button", title: frame.error, onclick: (event) => {
        event.target.remove();
        this.connection.transmit(frame.message, this.connection.unsent.get(frame.message));
      } }, this.say("failed")));
    }

    // -- drawing -----------------------------------------------------------------------------------------------------

    show(line) {
      const who = line.who === "user" ? this.say("you") : line.name || this.say("bot");
      const text = element("span", { class: "text" });
      this.fill(text, line.text);
      const bubble = element("li", { class: `line ${line.who}` }, element("span", { class: "who" }, `${who}: `), text);
      if (line.who === "user") this.bubbles.set(line.message, bubble);
      if (line.who === "bot" && line.message && line.message !== "start") this.addThumbs(bubble, line.message);
      this.log.insertBefore(bubble, this.typingDots.hidden ? null : this.typingDots);
      if (line.who !== "user") this.drawButtons(line.buttons || []);
      this.log.scrollTop = this.log.scrollHeight;
    }

    /** Text with its links made links; nothing of it is ever read as HTML. */
    fill(target, text) {
      target.replaceChildren();
      for (const part of text.split(/(https?:\/\/[^\s<>"')\]]+)/)) {
        if (/^https?:\/\//.test(part)) {
          target.append(element("a", { href: part, target: "_blank", rel: "noopener noreferrer" }, part));
        } else target.append(part);
      }
    }

    addThumbs(bubble, message) {
      for (const old of this.log.querySelectorAll(".thumbs")) if (old.dataset.message === message) old.remove();
      const thumbs = element("span", { class: "thumbs", "data-message": message });
      for (const value of ["up", "down"]) {
        thumbs.append(element("button", { type: "button", title: this.say(value), "aria-label": this.say(value),
          onclick: async () => {
            await this.connection.thumb(message, value);
            thumbs.replaceChildren(element("span", { role: "status" }, this.say("thanks")));
          } }, icon(ICONS[value])));
      }
      bubble.append(thumbs);
    }

    drawButtons(buttons) {
      this.quick.replaceChildren();
      if (!ABOUT.buttons) return;
      for (const button of buttons) {
        if (button.url && /^(https?:|tel:|mailto:)/.test(button.url)) {
          this.quick.append(element("a", { href: button.url, target: "_blank", rel: "noopener noreferrer" }, button.title));
        } else if (!button.url) {
          this.quick.append(element("button", { type: "button", onclick: () => {
            this.speak(button.say || button.title);
            this.input.focus();
          } }, button.title));
        }
      }
    }

    notice(words) {
      if (this.statusLine.textContent !== words) this.statusLine.textContent = words;
    }
  }

  if (!customElements.get("haechi-chat")) customElements.define("haechi-chat", Chat);
  const mount = () => {
    const chat = document.createElement("haechi-chat");
    for (const [key, value] of Object.entries(script.dataset)) chat.setAttribute(key, value);
    const place = script.dataset.mode === "page" ? document.getElementById("haechi-chat") : null;
    (place || document.body).append(chat);
  };
  if (document.body) mount();
  else addEventListener("DOMContentLoaded", mount, { once: true });
})();
