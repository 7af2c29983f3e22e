"""The endpoints, a file for each family. They build on GenerationService and know no engine."""
