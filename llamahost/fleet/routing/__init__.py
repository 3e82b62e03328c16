"""Who answers: names to models, models to replicas, and again where one fails. Loads nothing."""
