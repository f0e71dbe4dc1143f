// Swagger UI, which swagger-ui-bundle.js defines, with the routes of this server; no other host is asked to validate them.

window.SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
