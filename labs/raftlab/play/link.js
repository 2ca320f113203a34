// The connection to the session in the play server. It sends one request at a time, in the order of the calls of `ask`.

export class Link {
  /** `answered` is called with each answer, and `failed` if the play server cannot be reached. */
  constructor(answered, failed) {
    this.answered = answered;
    this.failed = failed;
    this.waiting = [];
    this.busy = false;
    this.since = 0; // when the current request was sent, in milliseconds of the wall clock
  }

  /** Send a request. `fields` is called when the request is sent and returns its fields, see `Request` in server.py. `then`
   * is called with the answer. */
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
