// What an accessibility checker asks first, in a page: gives a list of complaints.
() => {
  const wrong = [];
  const seen = (n) => n.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const all = [...document.querySelectorAll('body *')].filter(seen);
  const name = (n) => {
    const by = n.getAttribute('aria-labelledby');
    if (by) return by.split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join(' ').trim();
    return (n.getAttribute('aria-label') ?? (n.labels?.[0]?.textContent) ?? n.textContent ?? '').trim();
  };
  if (!document.documentElement.lang) wrong.push('no language');
  if (document.querySelectorAll('main').length !== 1) wrong.push('not one main');
  const ids = [...document.querySelectorAll('[id]')].map((n) => n.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => wrong.push(`id twice: ${id}`));
  for (const n of document.querySelectorAll('[aria-labelledby], [aria-describedby]')) {
    for (const id of (n.getAttribute('aria-labelledby') ?? n.getAttribute('aria-describedby')).split(' ')) {
      if (!document.getElementById(id)) wrong.push(`${n.id}: refers to ${id}, which is not there`);
    }
  }
  const headings = all.filter((n) => /^H[1-6]$/.test(n.tagName)).map((n) => Number(n.tagName[1]));
  if (headings.filter((level) => level === 1).length > 1) wrong.push('more than one h1');
  headings.forEach((level, i) => {
    if (i && level > headings[i - 1] + 1) wrong.push(`h${level} after h${headings[i - 1]}`);
  });
  for (const n of all) {
    if (n.matches('button, a[href], input, progress, dialog, summary, section, [role=region]') && !name(n)) {
      wrong.push(`${n.tagName} ${n.id}: no name`);
    }
    if (n.matches('img') && !n.hasAttribute('alt')) wrong.push('img without alt');
    if (n.matches('button, input, summary') && n.getBoundingClientRect().height < 24) wrong.push(`${n.id || n.textContent}: too small`);
    if (n.hasAttribute('tabindex') && n.tabIndex > 0) wrong.push(`${n.id}: tabindex`);
  }
  const channels = (css) => { const m = css.match(/[\d.]+/g).map(Number); return { rgb: m.slice(0, 3), a: m[3] ?? 1 }; };
  const light = ({ rgb }) => rgb.map((v) => v / 255).map((v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (n) => {
    for (; n; n = n.parentElement) { const c = channels(getComputedStyle(n).backgroundColor); if (c.a === 1) return c; }
    return { rgb: [255, 255, 255], a: 1 };
  };
  for (const n of all) {
    const text = [...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    const colour = channels(getComputedStyle(n).color);
    if (!text || colour.a === 0 || n.closest('[aria-hidden=true], button:disabled')) continue;
    const [a, b] = [light(colour), light(ground(n))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${n.tagName} ${n.id} ${n.textContent.slice(0, 40)}`);
  }
  return wrong;
}
