"""What we learned and how we decide: labels, data sets, models, policies, gate, registry."""
