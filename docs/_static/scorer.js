// Pages that answer a question go before the reference, and before the changelog: the rest is Sphinx's own scorer.
var Scorer = {
  folders: { howto: 3, guides: 3, start: 3, migrate: 1, reference: -4, changelog: -6, contributing: -6 },
  score: ([docname, title, anchor, descr, score, filename, kind]) =>
    score + (Scorer.folders[docname.split("/")[0]] || 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
