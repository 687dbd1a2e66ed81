"""The LightningModule, its optimizer groups, callbacks and strategies."""
