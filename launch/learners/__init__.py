"""Several learners of one training, each in a Ray process of its own."""
