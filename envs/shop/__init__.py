"""Shop: a web shop of our own, played as text or in a real browser, and WebShop's catalogue where a user has it."""
