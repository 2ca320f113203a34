// The connection to the session on the server: one request at a time, the user's actions before everything else.

export class Link {
  /** `answered` is called with each answer; `failed` with a sentence when the server cannot be reached. */
  constructor(answered, failed) {
    this.answered = answered;
    this.failed = failed;
    this.waiting = [];
    this.busy = false;
    this.since = 0; // when the present request was sent, by the wall clock
  }

  /** Ask for something; see `Request` in server.py. `fields` is a function, called when the request is sent. */
  ask(fields, then = () => {}) {
    this.waiting.push([fields, then]);
    this.#next();
  }

  async #next() {
    if (this.busy || !this.waiting.length) return;
    const [fields, then] = this.waiting.shift();
    this.busy = true;
    this.since = performance.now();
    try {
      const response = await fetch("do", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(fields()),
      });
      if (!response.ok) throw new Error(String(response.status));
      const answer = await response.json();
      this.busy = false;
      this.answered(answer);
      then(answer);
    } catch (error) {
      this.busy = false;
      if (error instanceof TypeError || /^\d+$/.test(error.message)) this.failed();
      else throw error;
    }
    this.#next();
  }
}
