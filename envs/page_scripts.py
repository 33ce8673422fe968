"""What runs in the pages of `browser.BrowserPage`: watching for the next page, cleaning, aiming, acting."""

WATCH = """window.navigation?.addEventListener('navigate', event => {
    if (!event.destination.sameDocument) window.leavesThisPage = true;
})"""
CLEAN = """async () => {
    try { localStorage.clear(); sessionStorage.clear() } catch { /* a page without an origin has none */ }
    try { for (const {name} of await indexedDB.databases()) indexedDB.deleteDatabase(name) } catch { /* likewise */ }
    window.name = ''
}"""
FETCH_PICTURES = """async () => {
    const rules = [...document.styleSheets].flatMap(sheet => {
        try { return [...sheet.cssRules] } catch { return [] }  // of another origin
    });
    const found = rules.flatMap(rule => [...rule.cssText.matchAll(/url\\("?([^")]+)"?\\)/g)].map(match => match[1]));
    const pictures = found.map(address => Object.assign(new Image(), {src: address}));
    Object.defineProperty(window, 'fetchedPictures', {value: pictures});  // what nobody holds is let go again
    const arrived = picture => new Promise(done => { picture.onload = picture.onerror = done });
    await Promise.all(pictures.filter(picture => !picture.complete).map(arrived));
}"""
"""Icons that styles change below the mouse: the new one has no size before it is here, and a click then misses it."""
ADVANCE = """([ms, x, y]) => {
    window.advanceVirtualClock?.(ms);
    return document.elementFromPoint(x, y) !== [...document.querySelectorAll(':hover')].at(-1);
}"""
"""Let a virtual clock run; whether something else is below the mouse now than what the page was told."""
LEAVES = "!!window.leavesThisPage || document.readyState !== 'complete'"
"""Another page is on its way, or here but not whole."""
SETTLE = f"""async () => {{
    for (let i = 0; i < 2; i++) await new Promise(done => {{  // no timer: those stand still on a virtual clock
        const channel = new MessageChannel();
        channel.port1.onmessage = done;
        channel.port2.postMessage(0);
    }});
    return {LEAVES};
}}"""
AIM = """function () {
    const element = this.nodeType === 3 ? this.parentElement : this;
    element.scrollIntoViewIfNeeded?.(true);
    const box = element.getClientRects()[0];
    const x = box ? box.left + box.width / 2 : 0, y = box ? box.top + box.height / 2 : 0;
    const hit = box && document.elementFromPoint(x, y);
    return {x, y, seen: !!box, hit: !!hit && (element === hit || element.contains(hit)), tag: element.tagName,
            disabled: !!element.disabled, connected: element.isConnected, type: element.type || ''};
}"""
CLICK = """function () {
    for (const name of ['pointerdown', 'mousedown', 'pointerup', 'mouseup', 'click']) {
        if (name === 'pointerup') this.focus?.({preventScroll: true});
        this.dispatchEvent(new MouseEvent(name, {bubbles: true, cancelable: true, view: window, detail: 1}));
    }
}"""
HOVER = """function () {
    for (const name of ['pointerover', 'mouseover', 'mouseenter', 'mousemove'])
        this.dispatchEvent(new MouseEvent(name, {bubbles: name !== 'mouseenter', cancelable: true, view: window}));
}"""
SCROLL = """function (where) {
    const scrolls = box => box.scrollHeight > box.clientHeight && /auto|scroll/.test(getComputedStyle(box).overflowY);
    let box = this.nodeType === 3 ? this.parentElement : this;
    while (box.parentElement && !scrolls(box)) box = box.parentElement;
    const before = box.scrollTop, page = box.clientHeight, end = box.scrollHeight;
    const places = {up: before - page, down: before + page, top: 0, bottom: end};
    if (!(where in places)) return false;
    const told = new Promise(done => addEventListener('scroll', done, {once: true, capture: true}));
    box.scrollTop = places[where];
    return box.scrollTop === before ? true : told.then(() => true);
}"""
FOCUS = """function () {
    this.focus();
    if (this.select) this.select(); else getSelection().selectAllChildren(this);
}"""
SET = """function (value) {
    this.value = value;
    for (const name of ['input', 'change']) this.dispatchEvent(new Event(name, {bubbles: true}));
    return this.value === value;
}"""
CHOOSE = """function (wanted) {
    const text = option => option.label.trim().replace(/\\s+/g, ' ').toLowerCase();
    const found = [...this.options].find(option => text(option) === wanted && !option.disabled);
    if (!found) return false;
    if (this.multiple) found.selected = !found.selected; else this.value = found.value, found.selected = true;
    for (const name of ['input', 'change']) this.dispatchEvent(new Event(name, {bubbles: true}));
    return true;
}"""
