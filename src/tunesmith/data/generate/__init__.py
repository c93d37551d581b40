"""Made data: ready tasks, described tasks, planted faults and perturbations; seeded, without a model."""
