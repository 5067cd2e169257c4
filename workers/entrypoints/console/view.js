// Small words for the page. Text goes in as text, never as markup: what the log says is data.

export const $ = (id) => document.getElementById(id);

export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// Only what differs is touched, so that focus, selection and screen readers are left in peace.
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

export function show(node, wanted) {
  if (node.hidden === wanted) node.hidden = !wanted;
}

export function mark(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

export function fill(node, ...children) {
  node.replaceChildren(...children);
}

export function when(stamp, withDate = true) {
  const at = new Date(stamp);
  if (!stamp || Number.isNaN(at.getTime())) return "";
  return new Intl.DateTimeFormat(undefined, withDate ? { dateStyle: "medium", timeStyle: "medium" } : { timeStyle: "medium" }).format(at);
}

// The log keeps who it was to the last digit; a card needs the name.
export const person = (authid) => (authid ?? "").replace(/ \([0-9a-f-]{36}\)$/, "");

export const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;

// One question at a time. `act` gets what the dialog may say while it works; what it throws is shown, and the dialog
// stays. Escape and the other button always leave.
export function ask({ what, title, body, yes, no, danger = false, act }) {
  const [dialog, sure, trouble] = [$("confirm"), $("confirm-yes"), $("confirm-trouble")];
  text($("confirm-title"), title);
  fill($("confirm-body"), ...body);
  text(sure, yes);
  text($("confirm-no"), no);
  sure.className = danger ? "danger" : "primary";
  sure.disabled = false;
  show(trouble, false);
  mark(dialog, "what", what);
  sure.onclick = async () => {
    sure.disabled = true;
    show(trouble, false);
    try {
      await act((words) => text(sure, words));
      dialog.close();
    } catch (error) {
      text(trouble, error.message);
      show(trouble, true);
    } finally {
      sure.disabled = false;
    }
  };
  if (!dialog.open) dialog.showModal();
}

export function leave(what) {
  const dialog = $("confirm");
  if (dialog.open && dialog.dataset.what === what) dialog.close();
}
