"""The parts of tools/train_demo_model.py: settings, texts, rows, model, training, sampling, export, model
card."""
