"""Evaluation over images, whatever the task: one pass that several processes share and a killed run resumes."""
