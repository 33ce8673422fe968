"""A service desk: orders, refunds and bookings under a written policy, with a scripted customer."""
