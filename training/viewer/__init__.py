"""`turnwise view`: runs and evaluations in the browser, live, read-only. Nothing here is imported before it is used."""
