"""SearchQA: a generated world of documents, questions of several hops, and the measures of answers."""
