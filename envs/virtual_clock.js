// A clock that only `advance` moves: dates, timers and animation frames of a page are the same in every replay.
(() => {
  const RealDate = Date, FRAME_MS = 16, MAX_FIRED = 100000;
  let now = 0, last = 0;
  const waiting = new Map();

  const later = (callback, delay, args, every) => {
    const due = now + Math.max(Number(delay) || 0, every ? 1 : 0);
    waiting.set(++last, {id: last, due, callback, args, every});
    return last;
  };
  const run = ({callback, args}) => {
    if (typeof callback === 'function') callback.apply(window, args);
    else (0, eval)(String(callback));
  };
  const forget = (id) => { waiting.delete(id); };

  window.setTimeout = (callback, delay, ...args) => later(callback, delay, args, 0);
  window.setInterval = (callback, delay, ...args) => later(callback, delay, args, Math.max(Number(delay) || 0, 1));
  window.requestAnimationFrame = (callback) =>
    later(() => callback(now), FRAME_MS - now % FRAME_MS, [], 0);
  window.clearTimeout = window.clearInterval = window.cancelAnimationFrame = forget;
  window.Date = class Date extends RealDate {
    constructor(...args) { if (args.length) super(...args); else super(now); }
    static now() { return now; }
  };
  performance.now = () => now;

  const advance = (ms) => {
    const end = now + ms;
    for (let fired = 0; fired < MAX_FIRED; fired++) {
      let next = null;
      for (const timer of waiting.values())
        if (timer.due <= end && (!next || timer.due < next.due)) next = timer;
      if (!next) break;
      now = Math.max(now, next.due);
      if (next.every) next.due = now + next.every; else waiting.delete(next.id);
      try { run(next); } catch (error) { console.error(error); }
    }
    now = end;
  };
  Object.defineProperty(window, 'advanceVirtualClock', {value: advance});
})();
